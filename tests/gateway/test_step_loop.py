"""The step loop over fake ranks: what one request may do to others, and what a lost group does to all."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from common.arrays import I32, from_wire
from common.errors import Overloaded, RequestFailed, Unavailable
from common.health import HealthBoard
from gateway.step_loop import StepLoop
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.fake_loop import counting, make_generation, read_ids, run_all, running_loop, until
from tests.support.fake_rank import POISON, FakeRank, honest, never

WHOLE_POOL = 16 * 4  # positions


@pytest.fixture(autouse=True)
def no_kept_records(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Log records that pytest keeps hold errors, whose tracebacks hold the connections of lost groups."""
    yield
    caplog.get_records("call").clear()


@asynccontextmanager
async def loop_of_one(**settings: Any) -> AsyncIterator[tuple[FakeRank, StepLoop, HealthBoard]]:
    async with FakeRank() as rank, running_loop([rank], **settings) as (loop, health):
        yield rank, loop, health


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


@pytest.mark.parametrize("world_size", [1, 2])
def test_many_requests(world_size: int) -> None:
    async def test() -> None:
        async with AsyncExitStack() as stack:
            ranks = [await stack.enter_async_context(FakeRank(rank, world_size)) for rank in range(world_size)]
            loop, _ = await stack.enter_async_context(running_loop(ranks))
            requests = [make_generation([14 + index], 4) for index in range(12)]
            answers = await run_all(loop, *requests)
            assert answers == [counting(14 + index, 4) for index in range(12)]

    run(test)


def test_numbers_that_are_not_finite_fail_their_own_request_only() -> None:
    async def test() -> None:
        async with loop_of_one() as (_, loop, _):
            good, bad, late = make_generation([20], 8), make_generation([1, POISON, 3]), make_generation([9], 8)
            results = await asyncio.gather(
                *(run_all(loop, generation) for generation in (good, bad, late)), return_exceptions=True
            )
            assert results[0] == [counting(20, 8)]
            assert isinstance(results[1], RequestFailed) and isinstance(results[2], RequestFailed)
            # `late` drew POISON itself as its fourth token: what came before the failure was delivered.
            assert late.completion_tokens == 4

            # Its first block had been listed for reuse while it was sound; it is no more.
            after = make_generation([9, 10, 11, 12, 20], 2)
            assert await run_all(loop, after) == [counting(20, 2)]
            assert after.sequence.cached_prompt_tokens == 0
            # A sound request's block is reused, so the line above tells something.
            again = make_generation([20, *counting(20, 7)], 2)
            await run_all(loop, again)
            assert again.sequence.cached_prompt_tokens == 4
            whole = make_generation([20] * (WHOLE_POOL - 2), 2)
            assert len((await run_all(loop, whole))[0]) == 2

    run(test)


def test_a_cancelled_request_gives_its_blocks_back() -> None:
    async def test() -> None:
        async with loop_of_one() as (rank, loop, _):
            started = asyncio.Event()

            async def slow(answer: pb.RunResponse) -> pb.RunResponse:
                started.set()
                await asyncio.sleep(0.05)
                return answer

            rank.tamper = slow
            running, waiting = make_generation([20], 60), make_generation([21] * 40, 4)
            for generation in (running, waiting):
                loop.submit(generation)
            await started.wait()
            loop.cancel(running)  # its step is out
            loop.cancel(waiting)
            loop.cancel(waiting)
            rank.tamper = honest
            whole = make_generation([20] * (WHOLE_POOL - 2), 2)
            assert len((await run_all(loop, whole))[0]) == 2

    run(test)


def test_drain_ends_when_the_last_request_is_forgotten() -> None:
    async def test() -> None:
        async with loop_of_one() as (_, loop, _):
            generation = make_generation([20], 3)
            loop.submit(generation)
            assert await read_ids(generation) == counting(20, 3)
            await asyncio.sleep(0.05)  # the loop has nothing to do any more, but the client is still being told
            draining = asyncio.create_task(loop.drain())
            await asyncio.sleep(0.05)
            assert not draining.done()
            with pytest.raises(Unavailable, match="shutting down"):
                loop.submit(make_generation([20], 3))
            loop.cancel(generation)
            await asyncio.wait_for(draining, 1.0)

    run(test)


def test_overload() -> None:
    async def test() -> None:
        async with loop_of_one(max_running=2, max_queued_requests=1) as (rank, loop, _):
            rank.tamper = never
            admitted = [make_generation([20], 4) for _ in range(3)]
            for generation in admitted:
                loop.submit(generation)
            refused = make_generation([20], 4)
            with pytest.raises(Overloaded):
                loop.submit(refused)
            loop.cancel(refused)
            loop.cancel(admitted[-1])
            loop.submit(make_generation([20], 4))

    run(test)


def test_a_lost_group_is_attached_again_and_nothing_changes() -> None:
    async def test() -> None:
        async with loop_of_one() as (rank, loop, health):
            answers = 0

            async def lie_once(answer: pb.RunResponse) -> pb.RunResponse:
                nonlocal answers
                answers += 1
                answer.result.ran_hash += answers == 3  # of at least 4, however many tokens a frame holds
                return answer

            rank.tamper = lie_once
            requests = [make_generation([14], 12), make_generation([15, 16, 17], 12)]
            assert await run_all(loop, *requests) == [counting(14, 12), counting(17, 12)]
            assert len(rank.fences) == 2 and rank.fences[0] < rank.fences[1]
            assert health.serving

    run(test)


def test_without_a_group_nothing_is_served() -> None:
    async def test() -> None:
        async with FakeRank() as rank, running_loop([rank], step_timeout_s=0.2) as (loop, health):
            stuck = make_generation([20], 3)
            rank.tamper, rank.info.checkpoint_hash = never, "another"
            loop.submit(stuck)
            await until(lambda: not health.serving)
            with pytest.raises(Unavailable, match="not ready"):
                loop.submit(make_generation([20], 3))
            with pytest.raises(Unavailable, match="not ready"):
                _ = loop.group
            rank.tamper, rank.info.checkpoint_hash = honest, "c0ffee"
            assert await read_ids(stuck) == counting(20, 3)
            assert health.serving and loop.group.num_blocks == 16

    run(test)


def test_what_does_not_fit_a_smaller_group_fails() -> None:
    async def test() -> None:
        async with FakeRank() as rank, running_loop([rank], step_timeout_s=0.2) as (loop, _):
            large, small = make_generation([20] * 30, 4), make_generation([21] * 4, 3)
            rank.tamper, rank.info.num_blocks = never, 4
            for generation in (large, small):
                loop.submit(generation)
            await asyncio.sleep(0.1)
            rank.tamper = honest
            with pytest.raises(Unavailable, match="too small"):
                await read_ids(large)
            assert await read_ids(small) == counting(21, 3)

    run(test)


def test_a_request_that_kills_the_ranks_is_not_tried_for_ever() -> None:
    killer = 5

    async def test() -> None:
        async with loop_of_one() as (rank, loop, _):

            async def die_of_the_killer(answer: pb.RunResponse) -> pb.RunResponse | None:
                ids = from_wire(rank.plans[-1].token_ids, I32, (-1,), "token_ids").tolist() if rank.plans else []
                return None if answer.HasField("result") and killer in ids else answer

            rank.tamper = die_of_the_killer
            with pytest.raises(RequestFailed, match="3 times in a row"):
                await run_all(loop, make_generation([1, killer], 4))
            await until(lambda: is_attached(loop))
            assert await run_all(loop, make_generation([20], 4)) == [counting(20, 4)]

    run(test)


def is_attached(loop: StepLoop) -> bool:
    try:
        return bool(loop.group.ranks)
    except Unavailable:
        return False
