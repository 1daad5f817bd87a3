"""The gateway's end of the step stream, against ranks that keep the rules and ranks that do not."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from common.errors import Refused, Unavailable
from gateway.shard_group import ShardGroup
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.fake_rank import CHECKPOINT_HASH, FakeRank, Tamper, never
from tests.support.plans import PlanRow, greedy_open, make_plan

PLAN = make_plan([PlanRow(1, 0, [1, 2, 3], [0], sampled=1)], [greedy_open(1)]).SerializeToString()
STEP_TIMEOUT_S = 0.5


@asynccontextmanager
async def attached(ranks: Sequence[FakeRank]) -> AsyncIterator[ShardGroup]:
    """Serve these ranks and attach to them; nothing of it may be left afterwards."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        for rank in ranks:
            await stack.enter_async_context(rank)
        group = await ShardGroup.attach([rank.address for rank in ranks], CHECKPOINT_HASH, STEP_TIMEOUT_S)
        try:
            yield group
        finally:
            await group.close()
    await asyncio.sleep(0.05)
    left = {task for task in asyncio.all_tasks() - before if "grpc" not in repr(task)}
    assert not left


def two_ranks(**second: Any) -> list[FakeRank]:
    """Return the ranks of a group; `second` changes what rank 1 says of itself."""
    ranks = [FakeRank(0, 2), FakeRank(1, 2)]
    for name, value in second.items():
        setattr(ranks[1].info, name, value)
    return ranks


def test_steps_are_numbered_and_answered_in_rank_order() -> None:
    async def run() -> None:
        ranks = two_ranks(num_blocks=9, max_step_tokens=40)
        async with attached(ranks) as group:
            assert (group.info.num_blocks, group.info.kv_cache_tokens, group.info.max_step_tokens) == (9, 36, 40)
            for step in (1, 2, 3):
                results = await group.run(PLAN)
                assert [result.step for result in results] == [step, step] and group.step == step
            assert ranks[0].plans == ranks[1].plans == [pb.Plan.FromString(PLAN)] * 3
            assert ranks[0].fences == ranks[1].fences

    asyncio.run(run())


async def wrong_hash(answer: pb.RunResponse) -> pb.RunResponse:
    answer.result.ran_hash += 1
    return answer


async def wrong_step(answer: pb.RunResponse) -> pb.RunResponse:
    answer.result.step += 1
    return answer


async def nothing(answer: pb.RunResponse) -> None:
    return None


async def broken(answer: pb.RunResponse) -> pb.RunResponse:
    raise RuntimeError("a bug in the rank")


@pytest.mark.parametrize(
    "tamper, message",
    [
        (wrong_hash, "ran another plan"),
        (wrong_step, "answered for another step"),
        (nothing, "the step stream ended"),
        (never, "no answer from all ranks within 0.5 s"),
        (broken, "a bug in the rank"),
    ],
)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_rank_that_breaks_the_rules_ends_the_group(tamper: Tamper, message: str, world_size: int) -> None:
    async def run() -> None:
        ranks = [FakeRank(rank, world_size) for rank in range(world_size)]
        async with attached(ranks) as group:
            await group.run(PLAN)
            ranks[-1].tamper = tamper
            with pytest.raises(Unavailable, match=message):
                await group.run(PLAN)

    asyncio.run(run())


def test_a_rank_that_goes_away_ends_the_group() -> None:
    async def run() -> None:
        async with attached(two_ranks()) as group:
            await group.run(PLAN)
            async with FakeRank() as lonely:
                other = await ShardGroup.attach([lonely.address], CHECKPOINT_HASH, STEP_TIMEOUT_S)
                await other.run(PLAN)
            with pytest.raises(Unavailable):
                await other.run(PLAN)
            await other.close()
            assert len(await group.run(PLAN)) == 2  # another group is not concerned

    asyncio.run(run())


@pytest.mark.parametrize(
    "second, field",
    [
        ({"epoch": 8}, "epoch"),
        ({"rank": 0}, "rank"),
        ({"world_size": 3}, "world_size"),
        ({"checkpoint_hash": "other"}, "checkpoint_hash"),
        ({"protocol_version": 99}, "protocol_version"),
        ({"block_size_tokens": 8}, "block_size_tokens"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"vocabulary_first": 0}, "vocabulary_first"),
    ],
)
def test_ranks_that_do_not_fit_together_are_refused(second: dict[str, Any], field: str) -> None:
    async def run() -> None:
        with pytest.raises(Refused, match=f"rank 1: {field} is") as caught:
            async with attached(two_ranks(**second)):
                pass
        assert caught.value.reason == "WRONG_GROUP"

    asyncio.run(run())


def test_nobody_there() -> None:
    async def run() -> None:
        async with FakeRank() as rank:
            address = rank.address
        with pytest.raises(Unavailable):
            await ShardGroup.attach([address], CHECKPOINT_HASH, STEP_TIMEOUT_S)

    asyncio.run(run())


def test_later_gateways_have_higher_fences() -> None:
    async def run() -> None:
        async with FakeRank() as rank:
            groups = [await ShardGroup.attach([rank.address], CHECKPOINT_HASH, STEP_TIMEOUT_S) for _ in range(3)]
            assert rank.fences == sorted(set(rank.fences)) and len(rank.fences) == 3
            for group in groups:
                await group.close()

    asyncio.run(run())
