"""Which shared segments have a name? Other tests, and others' services, may form groups at the same moment."""

import time

from shard_worker.collectives.segment import FOLDER

GONE_WITHIN_S = 30.0  # a name lives until all ranks of a group have mapped the segment


def segments() -> set[str]:
    """Return the names of all segments that can be mapped now."""
    return {path.name for path in FOLDER.glob("tandem-*")}


def assert_none_left(before: set[str]) -> None:
    """Assert that each name that is there now, and was not `before`, is about to go."""
    left, deadline_s = segments() - before, time.monotonic() + GONE_WITHIN_S
    while left := left & segments():
        assert time.monotonic() < deadline_s, left
        time.sleep(0.02)
