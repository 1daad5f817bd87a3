"""Loads: reproducible arrivals, prompts of their own, and bounds that hold."""

import asyncio
import time
from itertools import islice, pairwise

import pytest

from common.commands.bench.drive import Bounds, drive
from common.commands.bench.load import ClosedLoop, Lengths, OpenLoop, Work, arrival_offsets_s
from common.commands.bench.trace import Failure, Trace
from tandem.v1.inference_service_pb2 import GenerateRequest

WORK = Work(Lengths(3, 6), Lengths(2, 4), vocabulary_size=50, temperature=0.0, salt="s")


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first = list(islice(arrival_offsets_s(5.0, seed=1), 2000))
    assert first == list(islice(arrival_offsets_s(5.0, seed=1), 2000))
    assert first != list(islice(arrival_offsets_s(5.0, seed=2), 2000))
    assert first == sorted(first)


def test_arrivals_are_a_poisson_process() -> None:
    offsets_s = [0.0, *islice(arrival_offsets_s(5.0, seed=1), 20_000)]
    gaps_s = [after - before for before, after in pairwise(offsets_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    variance_s2 = sum((gap - mean_s) ** 2 for gap in gaps_s) / len(gaps_s)
    assert mean_s == pytest.approx(0.2, rel=0.03)
    assert variance_s2 == pytest.approx(mean_s**2, rel=0.1)  # of an exponential


def test_requests_have_the_lengths_that_were_asked_for() -> None:
    requests = list(islice(WORK.requests("x"), 200))
    assert {len(request.token_ids.ids) for request in requests} == {3, 4, 5, 6}
    assert {request.stopping.max_tokens for request in requests} == {2, 3, 4}
    assert all(request.stopping.ignore_eos for request in requests)
    assert max(id for request in requests for id in request.token_ids.ids) == 49


def test_no_two_prompts_are_alike_but_for_the_same_salt_and_load() -> None:
    def prompts(salt: str, load: str) -> list[tuple[int, ...]]:
        work = Work(Lengths(16, 16), Lengths(1, 1), 1000, 0.0, salt)
        return [tuple(request.token_ids.ids) for request in islice(work.requests(load), 10)]

    assert prompts("s", "x") == prompts("s", "x")
    assert len({*prompts("s", "x"), *prompts("s", "y"), *prompts("t", "x")}) == 30


class Clock:
    """Answers after `delay_s` and keeps count."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s, self.running, self.most, self.due_ns = delay_s, 0, 0, list[int | None]()

    async def send(self, request: GenerateRequest, due_ns: int | None) -> Trace | Failure:
        self.due_ns.append(due_ns)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(self.delay_s)
        self.running -= 1
        return Failure("never sent")


def test_a_closed_loop_keeps_its_streams_and_its_number() -> None:
    clock = Clock(0.01)
    results = asyncio.run(drive(clock.send, ClosedLoop(3), WORK.requests("x"), Bounds(8, 60.0), seed=0))
    assert len(results) == 8
    assert clock.most == 3


def test_a_closed_loop_ends_in_time() -> None:
    clock = Clock(0.05)
    results = asyncio.run(drive(clock.send, ClosedLoop(2), WORK.requests("x"), Bounds(10_000, 0.12), seed=0))
    assert 2 <= len(results) <= 8


def test_an_open_loop_does_not_wait_for_answers() -> None:
    clock = Clock(0.3)
    start_ns = time.perf_counter_ns()
    results = asyncio.run(drive(clock.send, OpenLoop(200.0), WORK.requests("x"), Bounds(20, 60.0), seed=3))
    assert len(results) == 20
    assert clock.most > 10
    # Times count from when a request was due, not from when the loop came to send it.
    gaps_s = [(due - start_ns) / 1e9 for due in clock.due_ns if due is not None]
    planned_s = list(islice(arrival_offsets_s(200.0, 3), 20))
    assert [gap - gaps_s[0] for gap in gaps_s] == pytest.approx([t - planned_s[0] for t in planned_s], abs=1e-6)


def test_an_open_loop_ends_in_time() -> None:
    clock = Clock(0.0)
    results = asyncio.run(drive(clock.send, OpenLoop(100.0), WORK.requests("x"), Bounds(10_000, 0.1), seed=3))
    expected = [offset_s for offset_s in islice(arrival_offsets_s(100.0, 3), 100) if offset_s <= 0.1]
    assert len(results) == len(expected) > 0
