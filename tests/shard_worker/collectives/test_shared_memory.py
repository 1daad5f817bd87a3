"""Shared-memory all-reduce between real processes: the right bits, and a clear end when a rank is lost."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shard_worker.collectives.segment import FOLDER, STALE_S, new_name, remove_stale
from tests.support.ranks import ROOT
from tests.support.segments import assert_none_left, segments
from tests.support.shared_memory_rank import PATIENCE_S

TIMEOUT_S = 100.0
# The bar for a peer that was killed; it takes a tenth of this where cores are free.
KILLED_WITHIN_S = 2.0

Rank = subprocess.Popen[str]


class Ranks:
    """The processes of one group, which meet in a folder of their own."""

    def __init__(self, job: str, world_size: int, folder: Path) -> None:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto")))}
        command = [sys.executable, "-m", "tests.support.shared_memory_rank", job]
        self.processes = [
            subprocess.Popen(
                [*command, str(rank), str(world_size), str(folder)],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(world_size)
        ]

    def wait_running(self) -> None:
        """Wait until every rank says that it begins."""
        for rank in self.processes:
            assert rank.stdout is not None and rank.stdout.readline() == "running\n"

    def end(self) -> None:
        """Kill them all; may be called twice."""
        for rank in self.processes:
            rank.kill()
            rank.wait()
            assert rank.stdout is not None
            rank.stdout.close()


Start = Callable[[str, int], Ranks]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start groups that are gone after the test, and leave nothing in /dev/shm."""
    before = segments()
    started: list[Ranks] = []
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:

        def start(job: str, world_size: int) -> Ranks:
            started.append(Ranks(job, world_size, Path(folder)))
            return started[-1]

        yield start
        for ranks in started:
            ranks.end()
    assert_none_left(before)


def output(rank: Rank) -> str:
    """Return what a rank printed, once it has ended well."""
    assert rank.stdout is not None
    text = rank.stdout.read()
    assert rank.wait(TIMEOUT_S) == 0, text
    return text


def assert_lost(rank: Rank, since: float, within_s: float, reason: str) -> float:
    """Assert what a rank said when it lost another, and how soon; return that."""
    line, after = output(rank).splitlines()
    moment, _, said = line.partition(" ")
    assert re.fullmatch(f"another rank of the group was lost: ({reason})", said)
    assert after == "of no more use"
    took_s = float(moment) - since
    assert 0 <= took_s < within_s
    return took_s


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_rank_gets_the_bits_of_the_ordered_sum(start: Start, world_size: int) -> None:
    for rank in start("sums", world_size).processes:
        assert output(rank) == "right\n"


@pytest.mark.parametrize(("world_size", "lost"), [(2, 0), (2, 1), (3, 1)])
def test_a_killed_rank_is_noticed_at_once(start: Start, world_size: int, lost: int) -> None:
    ranks = start("run", world_size)
    ranks.wait_running()
    began = time.monotonic()
    ranks.processes[lost].kill()
    for rank in ranks.processes[:lost] + ranks.processes[lost + 1 :]:
        assert_lost(rank, began, KILLED_WITHIN_S, f"rank {lost} has ended|the others gave up on rank {lost}")


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_stopped_rank_is_given_up_at_the_deadline(start: Start, world_size: int) -> None:
    ranks = start("run", world_size)
    ranks.wait_running()
    *others, stopped = ranks.processes
    began = time.monotonic()
    stopped.send_signal(signal.SIGSTOP)
    lost = world_size - 1
    reason = f"rank {lost} did not answer within {PATIENCE_S:g} s|the others gave up on rank {lost}"
    for rank in others:
        assert assert_lost(rank, began, PATIENCE_S + KILLED_WITHIN_S, reason) > PATIENCE_S - 0.5
    # Once it goes on, it must not take itself for a part of the group.
    stopped.send_signal(signal.SIGCONT)
    assert_lost(stopped, began, TIMEOUT_S, rf"the others gave up on rank {lost}|rank \d has ended")


def test_a_rank_that_leaves_is_noticed(start: Start) -> None:
    began = time.monotonic()
    first, second, last = start("leave", 3).processes
    assert output(last) == ""
    for rank in (first, second):
        assert rank.stdout is not None and rank.stdout.readline() == "running\n"
        assert_lost(rank, began, TIMEOUT_S, "rank 2 has ended|the others gave up on rank 2")


def test_parts_of_different_sizes_are_no_sum(start: Start) -> None:
    said = [output(rank) for rank in start("differ", 2).processes]
    assert any("adds up a part of another size" in text for text in said) and all(said)


def test_nothing_is_left_after_all_were_killed(start: Start) -> None:
    before = segments()
    ranks = start("run", 2)
    ranks.wait_running()
    assert_none_left(before)  # the name is gone once all have mapped it
    ranks.end()
    assert_none_left(before)


def test_what_a_rank_left_that_was_killed_between_is_removed_later() -> None:
    old, fresh = FOLDER / new_name(), FOLDER / new_name()
    try:
        for path in (old, fresh):
            path.touch()
        os.utime(old, (time.time() - STALE_S - 1,) * 2)
        remove_stale()
        assert not old.exists() and fresh.exists()
    finally:
        old.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)
