"""Special strings in text: which they are, and one regular expression that finds them all."""

import re
from collections.abc import Iterable


def any_of(strings: Iterable[str]) -> str:
    """Return a regular expression that matches any of `strings`, the longest that fits first.

    It branches like a trie: hundreds of reserved tokens that begin alike cost no more than one.
    """
    by_first: dict[str, set[str]] = {}
    for string in strings:
        by_first.setdefault(string[:1], set()).add(string)
    ends_here = by_first.pop("", None) is not None
    branches = []
    for _, group in sorted(by_first.items()):
        prefix = _common_prefix(min(group), max(group))
        branches.append(re.escape(prefix) + any_of(string[len(prefix) :] for string in group))
    if not branches:
        return "" if ends_here else "(?!)"
    return f"(?:{'|'.join(branches)})" + ("?" if ends_here else "")


def _common_prefix(a: str, b: str) -> str:
    differ = (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return a[: next(differ, min(len(a), len(b)))]


def is_control(content: str, template: str) -> bool:
    """Return whether an added token that its file does not call special is one that the chat template writes.

    Words and white space in a template are ordinary text; `<|im_start|>` or `</think>` are not. The rule
    follows transformers' `sanitize_control_tokens`.
    """
    return content in template and not content.isalnum() and not content.isspace()
