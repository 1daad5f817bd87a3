"""What runs alone waits for all others, and is not overtaken while it waits."""

import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.side_by_side import SideBySide

WAIT_S = 60.0


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[SideBySide]]:
    """Three, as far as the locks can tell."""
    (tmp_path / "room").touch()
    made = [SideBySide(tmp_path / "room", tmp_path) for _ in range(3)]
    yield made
    for process in made:
        process.pytest_unconfigure()


def is_door_taken(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_tests_run_beside_each_other(processes: list[SideBySide]) -> None:
    first, second, third = processes
    with first.held(alone=False), second.held(alone=False), third.held(alone=False):
        pass


def test_one_that_is_alone_waits_and_is_waited_for(processes: list[SideBySide], tmp_path: Path) -> None:
    first, second, third = processes
    order: list[str] = []

    def run(process: SideBySide, alone: bool, name: str) -> None:
        with process.held(alone):
            order.append(f"{name} begins")
            order.append(f"{name} ends")

    threads = [threading.Thread(target=run, args=(second, True, "alone"))]
    with first.held(alone=False):
        threads[0].start()
        patience = threading.Event()
        while not is_door_taken(tmp_path):
            patience.wait(0.01)
        threads.append(threading.Thread(target=run, args=(third, False, "next")))
        threads[1].start()
        patience.wait(0.1)  # in which the next one would overtake
        order.append("first ends")
    for thread in threads:
        thread.join(WAIT_S)
    assert order == ["first ends", "alone begins", "alone ends", "next begins", "next ends"]
