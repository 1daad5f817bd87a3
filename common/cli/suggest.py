"""Which valid name did a typo mean?"""

from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return " Did you mean X?" for the valid name nearest to `name`, or "" when none is near."""
    from difflib import get_close_matches  # needed only when something is wrong

    nearest = get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {nearest[0]}?" if nearest else ""
