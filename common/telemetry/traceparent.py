"""Whose trace does a call belong to? The headers of W3C Trace Context, https://www.w3.org/TR/trace-context/"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
MAX_TRACESTATE_CHARS = 512


class Parent(NamedTuple):
    """The caller's span. An empty traceparent: there is none."""

    traceparent: str = ""
    tracestate: str = ""


NO_PARENT = Parent()


def is_traceparent(text: str) -> bool:
    """Whether `text` is a traceparent: 55 characters of version, trace id, span id and flags."""
    return _TRACEPARENT.fullmatch(text) is not None


def parent_of(metadata: Iterable[tuple[str, Any]] | None) -> Parent:
    """Return the span that a call's metadata names as its parent; headers that are not valid count as none."""
    parents, states = [], []
    for key, value in metadata or ():
        if key == "traceparent":
            parents.append(value)
        elif key == "tracestate":
            states.append(value)
    if len(parents) != 1 or not isinstance(parents[0], str) or not is_traceparent(parents[0].strip()):
        return NO_PARENT
    state = ",".join(str(value) for value in states)
    return Parent(parents[0].strip(), state if len(state) <= MAX_TRACESTATE_CHARS else "")
