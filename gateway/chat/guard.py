"""What keeps a message from forging a special token.

A character of the private use area that occurs nowhere in the conversation is put into every special string of the
messages. The template then carries it along, whatever it does with the text, and only the special strings that the
template itself wrote are intact in what it renders. The same character closes a message that ends with the beginning
of a special string, and opens one that begins with an end of it or is all a part of it, so that none comes together
where a message meets another or the template's own text.

A template that searches a message for a special string does not find it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from common.errors import CheckpointError, InvalidRequest
from gateway.chat.message import ChatMessage
from gateway.tokenizers.special_strings import any_of

# All private use characters: U+E000 to U+F8FF and planes 15 and 16.
PRIVATE_USE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))
ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
WELL_KNOWN_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "ipython"})


class ChatGuard:
    """Guards conversations against one tokenizer's special strings."""

    def __init__(self, special_tokens: Mapping[str, int], template: str) -> None:
        """Raises CheckpointError for a special string of one character, which cannot be broken."""
        self._special = tuple(special_tokens)
        for string in self._special:
            if len(string) < 2:
                raise CheckpointError(f"the special token {string!r} of one character cannot be told from text")
        self._template_characters = frozenset(template)
        rests: dict[str, list[str]] = {}
        for string in self._special:
            rests.setdefault(string[0], []).append(string[1:])
        beginnings = (f"{re.escape(first)}(?={any_of(strings)})" for first, strings in rests.items())
        self._beginning = re.compile("|".join(beginnings) or "(?!)")
        self._heads = tuple({string[:i] for string in self._special for i in range(1, len(string))})
        self._tails = tuple({string[i:] for string in self._special for i in range(1, len(string))})

    def apply(self, messages: Sequence[ChatMessage]) -> tuple[list[dict[str, str]], str]:
        """Return the messages for the template, and the character that guards them.

        Raises InvalidRequest for a role that is no plain word or part of a special string, and for messages
        that use up all private use characters.
        """
        for index, message in enumerate(messages):
            self._check_role(message.role, f"chat.messages[{index}].role")
        guard = self._unused_character(message.content for message in messages)
        guarded = [{"role": m.role, "content": self._protect(m.content, guard)} for m in messages]
        return guarded, guard

    def _protect(self, content: str, guard: str) -> str:
        content = self._beginning.sub(rf"\g<0>{guard}", content)
        # Templates often trim a message; what must not join its neighbours is what remains.
        bare = content.strip()
        before = bare.startswith(self._tails) or any(bare in string for string in self._special)
        after = bare.endswith(self._heads)
        if not bare or not (before or after):
            return content
        start = content.index(bare)
        end = start + len(bare)
        return content[:start] + guard * before + bare + guard * after + content[end:]

    def _check_role(self, role: str, field: str) -> None:
        if not ROLE.fullmatch(role):
            raise InvalidRequest(field, "must be 1 to 64 letters, digits, '_' or '-', beginning with a letter")
        if role not in WELL_KNOWN_ROLES and any(role in string for string in self._special):
            raise InvalidRequest(field, f"{role!r} is part of a special token of the model")

    def _unused_character(self, texts: Iterable[str]) -> str:
        used = self._template_characters.union(*texts)
        code_point = next((c for c in PRIVATE_USE if chr(c) not in used), None)
        if code_point is None:
            raise InvalidRequest("chat", "the messages use every private use character")
        return chr(code_point)
