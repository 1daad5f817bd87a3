"""Ranks that trace learn who is over without a next step; others are left in peace, and steps make spans at times."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from common.arrays import U32, from_wire
from common.health import HealthBoard
from common.telemetry.tracer import OFF, Tracer
from gateway.generation import Generation
from gateway.rank_groups import FixedGroup
from gateway.settings import GatewaySettings
from gateway.step_loop import StepLoop
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.fake_loop import make_generation, read_ids, until
from tests.support.fake_rank import CHECKPOINT_HASH, FakeRank
from tests.support.recorded_spans import RecordingTracer

PARENT = f"00-{'b' * 32}-{'c' * 16}-01"


def closing(plan: pb.Plan) -> bool:
    return bool(plan.closes) and not plan.row_sequences


@asynccontextmanager
async def traced_loop(rank: FakeRank, tracer: Tracer) -> AsyncIterator[StepLoop]:
    settings = GatewaySettings(model=Path("unused"), ranks=(rank.address,), trace_every_steps=3, max_tokens_per_frame=1)
    health = HealthBoard()
    groups = FixedGroup(settings.ranks, CHECKPOINT_HASH, settings.step_timeout_s)
    loop = StepLoop(settings, groups, health, tracer=tracer)
    task = asyncio.create_task(loop.run())
    try:
        await until(lambda: health.serving)
        yield loop
    finally:
        task.cancel()
        await asyncio.wait([task])


async def finish(loop: StepLoop, generation: Generation) -> None:
    generation.sequence.traceparent = PARENT
    loop.submit(generation)
    await read_ids(generation)
    loop.cancel(generation)


def test_ranks_are_told_once_and_know_whose_trace_it_is() -> None:
    async def test() -> None:
        async with FakeRank() as rank, traced_loop(rank, RecordingTracer()) as loop:
            await finish(loop, make_generation([1, 2], 4))
            await until(lambda: any(map(closing, rank.plans)))
            (opening,) = [opening for plan in rank.plans for opening in plan.opens]
            (last,) = filter(closing, rank.plans)
            assert opening.traceparent == PARENT
            assert from_wire(last.closes, U32, (-1,), "closes").tolist() == [opening.sequence]
            # The next request's steps go on from there, and do not close it again.
            await finish(loop, make_generation([3], 2))
            assert sum(len(plan.closes) for plan in rank.plans) == 4

    asyncio.run(test())


def test_draining_waits_until_they_know() -> None:
    async def test() -> None:
        async with FakeRank() as rank, traced_loop(rank, RecordingTracer()) as loop:
            await finish(loop, make_generation([1, 2], 4))
            await loop.drain()
            assert closing(rank.plans[-1])

    asyncio.run(test())


def test_without_traces_there_are_no_steps_without_rows() -> None:
    async def test() -> None:
        async with FakeRank() as rank, traced_loop(rank, OFF) as loop:
            await finish(loop, make_generation([1], 2))
            await loop.drain()
            assert rank.plans and not any(map(closing, rank.plans))

    asyncio.run(test())


def test_one_step_in_three_is_a_span_linked_to_its_requests() -> None:
    async def test() -> None:
        tracer = RecordingTracer()
        async with FakeRank() as rank, traced_loop(rank, tracer) as loop:
            await finish(loop, make_generation([1, 2], 7))
            assert sum(not closing(plan) for plan in rank.plans) == 7
        assert tracer.told == [("step", ("OK", ""))] * 3
        assert all(span.links == [PARENT] and span.parent.traceparent == "" for span in tracer.spans)
        assert [hop.name for hop in tracer.spans[0].hops] == ["plan", "forward", "decide"]

    asyncio.run(test())
