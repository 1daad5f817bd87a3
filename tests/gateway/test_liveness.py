"""When a gateway counts as stuck: with work that goes nowhere, and never for want of work or of ranks."""

import asyncio
from typing import Any

import pytest

from common.progress import Progress
from tests.support.fake_loop import make_generation, read_ids, running_loop, until
from tests.support.fake_rank import FakeRank


def test_work_that_goes_nowhere_is_noticed_and_forgiven() -> None:
    async def run() -> None:
        go_on = asyncio.Event()

        async def hold(answer: Any) -> Any:
            await go_on.wait()
            return answer

        async with FakeRank() as rank, running_loop([rank]) as (loop, _):
            loop.progress = Progress(timeout_s=0.2)
            await asyncio.sleep(0.4)
            assert not loop.progress.stalled, "no work"
            rank.tamper = hold
            generation = make_generation([1])
            loop.submit(generation)
            await until(lambda: loop.progress.stalled)
            go_on.set()
            assert len(await read_ids(generation)) == 8
            await until(lambda: not loop.progress.stalled)
            loop.cancel(generation)

    asyncio.run(run())


def test_a_gateway_that_waits_for_ranks_is_not_stuck(caplog: pytest.LogCaptureFixture) -> None:
    async def leave(answer: Any) -> None:
        return None

    async def run() -> None:
        async with FakeRank() as rank, running_loop([rank]) as (loop, health):
            loop.progress = Progress(timeout_s=0.1)
            rank.tamper = leave
            generation = make_generation([1])
            loop.submit(generation)
            await rank.__aexit__()
            await until(lambda: not health.serving)
            await asyncio.sleep(0.3)
            assert not loop.progress.stalled
            loop.cancel(generation)

    asyncio.run(run())
    caplog.get_records("call").clear()  # what they hold of the lost group counts as left behind
