"""Several pytest processes on one machine (pytest-xdist): what must run alone does, and all the rest fills the cores.

A test that is marked `alone` waits for the tests that run in other processes, and holds back the next ones. Each test
holds a lock from its set-up to its teardown, shared or its own; whoever wants one waits at the door, so that a test
that waits to be alone is not overtaken for ever. The locks are on two things that lie in every clone, this file and its
folder: nothing is made, and nothing is left.
"""

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOM = Path(__file__)
DOOR = ROOM.parent
FIRST = Path(__file__).parents[1] / "system"


def is_one_of_several() -> bool:
    """Whether this process runs a part of the tests, beside others."""
    return "PYTEST_XDIST_WORKER" in os.environ


class SideBySide:
    """A plugin for one of several processes, which all open the same two paths."""

    def __init__(self, room: Path = ROOM, door: Path = DOOR) -> None:
        self._room, self._door = (os.open(path, os.O_RDONLY) for path in (room, door))

    def pytest_unconfigure(self) -> None:
        """Give the descriptors back."""
        for descriptor in (self._room, self._door):
            os.close(descriptor)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the longest files first: the short ones at the end let all processes be done at about the same time."""
        items.sort(key=lambda item: not item.path.is_relative_to(FIRST))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Hold the lock around all of a test, the fixtures that it is the first or the last to use included."""
        with self.held(alone=item.get_closest_marker("alone") is not None):
            return (yield)

    @contextmanager
    def held(self, alone: bool) -> Iterator[None]:
        """Wait for the lock and hold it."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
