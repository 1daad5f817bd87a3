"""Rank groups that come and go, and gateways that share them: each takes a free one and leaves it when it drains."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from common.errors import TandemError, Unavailable
from common.health import HealthBoard
from common.step_protocol import PROTOCOL_VERSION
from gateway.discovery.endpoint import Endpoint
from gateway.generation import Generation
from gateway.rank_groups import FoundGroups, complete_groups, rank_addresses
from gateway.settings import GatewaySettings
from gateway.shard_group import ShardGroup
from gateway.step_loop import StepLoop
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.fake_loop import make_generation, read_ids, running_loop, running_loop_of, until
from tests.support.fake_rank import CHECKPOINT_HASH, FakeRank

SETTINGS = GatewaySettings(model=Path("unused"), max_tokens_per_frame=1)
LONG = 40
STEP_TIMEOUT_S = 5.0


@pytest.fixture(autouse=True)
def no_kept_records(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Log records that pytest keeps hold errors, whose tracebacks hold the connections of lost groups."""
    yield
    caplog.get_records("call").clear()


def info(epoch: int, rank: int, world_size: int) -> pb.GetInfoResponse:
    return pb.GetInfoResponse(epoch=epoch, rank=rank, world_size=world_size)


def test_hosts_of_one_epoch_are_a_group_once_all_are_there() -> None:
    found = {
        "a:1": info(5, 2, 4),
        "b:1": info(6, 0, 2),
        "c:1": info(5, 0, 4),
        "d:1": info(7, 4, 8),
        "e:1": info(8, 1, 2),
    }
    assert sorted(complete_groups(found)) == [("b:1",), ("c:1", "a:1")]
    assert rank_addresses(("c:1", "[::1]:8"), 4) == ["c:1", "c:2", "[::1]:8", "[::1]:9"]
    assert complete_groups({}) == []


@asynccontextmanager
async def ranks(count: int) -> AsyncIterator[list[FakeRank]]:
    """Serve ranks that are groups of one, each of an epoch of its own."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(FakeRank()) for _ in range(count)]
        for number, rank in enumerate(running):
            rank.info.epoch = 7 + number
        yield running


def endpoints(served: Sequence[FakeRank]) -> list[Endpoint]:
    return [Endpoint(rank.address) for rank in served]


@asynccontextmanager
async def gateway(served: Sequence[FakeRank]) -> AsyncIterator[tuple[StepLoop, HealthBoard, FoundGroups]]:
    groups = FoundGroups(CHECKPOINT_HASH, STEP_TIMEOUT_S)
    groups.set_endpoints(endpoints(served))
    async with running_loop_of(SETTINGS, groups) as (loop, health):
        yield loop, health, groups


async def read(loop: StepLoop, generation: Generation) -> list[int]:
    try:
        return await read_ids(generation)
    finally:
        loop.cancel(generation)


def counting(first: int, count: int) -> list[int]:
    return [(first + 1 + index) % 32 for index in range(count)]


async def slow(answer: pb.RunResponse) -> pb.RunResponse:
    """Take long enough for a stream to outlive what happens to its group."""
    await asyncio.sleep(0.05)
    return answer


def test_gateways_share_groups_and_move_on_when_theirs_drains() -> None:
    async def test() -> None:
        async with ranks(3) as served, gateway(served) as (a, health_a, _), gateway(served) as (b, health_b, _):
            await until(lambda: health_a.serving and health_b.serving)
            held = [rank for rank in served if rank.info.held]
            assert len(held) == 2 and all(len(rank.fences) == 1 for rank in held)
            for rank in served:
                rank.tamper = slow
            epochs = {loop.group.epoch for loop in (a, b)}
            generations = [make_generation([14], 30), make_generation([14], 30)]
            a.submit(generations[0])
            b.submit(generations[1])
            reading = asyncio.gather(read(a, generations[0]), read(b, generations[1]))
            await until(lambda: min(generation.completion_tokens for generation in generations) > 2)
            leaving = next(rank for rank in held if rank.info.epoch == a.group.epoch)
            leaving.info.draining = True
            await until(lambda: a.group.epoch not in epochs)
            assert generations[0].completion_tokens < 30 and health_a.serving
            await until(lambda: not leaving.info.held)
            assert list(await reading) == [counting(14, 30)] * 2
            assert sum(len(rank.fences) for rank in served) == 3  # nobody else had to move

    asyncio.run(test())


def test_an_endpoint_that_takes_no_more_work_is_left_for_one_that_comes() -> None:
    async def test() -> None:
        async with ranks(2) as (old, new), gateway([old]) as (loop, health, groups):
            await until(lambda: health.serving)
            old.tamper = slow
            generation = make_generation([14], 30)
            loop.submit(generation)
            reading = asyncio.create_task(read(loop, generation))
            groups.set_endpoints([Endpoint(old.address, "", takes_work=False)])
            await until(lambda: generation.completion_tokens > 8)  # it is served while there is no other
            groups.set_endpoints([Endpoint(old.address, "", takes_work=False), Endpoint(new.address)])
            await until(lambda: new.info.held and not old.info.held)
            assert await reading == counting(14, 30) and new.plans

    asyncio.run(test())


def test_a_group_that_is_held_is_taken_once_it_is_free() -> None:
    async def test() -> None:
        async with ranks(1) as served:
            async with gateway(served) as (_, first, _):
                await until(lambda: first.serving)
                async with gateway(served) as (_, second, _):
                    with pytest.raises(Unavailable, match="held by another gateway"):
                        await attached_elsewhere(served)
                    assert not second.serving
            async with gateway(served) as (_, third, _):
                await until(lambda: third.serving)
            assert len(served[0].fences) == 2

    asyncio.run(test())


async def attached_elsewhere(served: Sequence[FakeRank]) -> None:
    groups = FoundGroups(CHECKPOINT_HASH, STEP_TIMEOUT_S)
    groups.set_endpoints(endpoints(served))
    await groups.attach()


@pytest.mark.parametrize(
    "field, value, reason",
    [
        (
            "protocol_version",
            PROTOCOL_VERSION + 1,
            f"protocol_version is {PROTOCOL_VERSION + 1}, not {PROTOCOL_VERSION}",
        ),
        ("checkpoint_hash", "another", "checkpoint_hash is 'another', not 'c0ffee'"),
        ("draining", True, "the group is draining"),
    ],
)
def test_of_two_releases_a_gateway_takes_the_group_that_is_its_own(field: str, value: object, reason: str) -> None:
    async def test() -> None:
        async with ranks(2) as (other, own):
            setattr(other.info, field, value)
            with pytest.raises(TandemError, match=re.escape(reason)):
                await attached_elsewhere([other])
            async with gateway([other, own]) as (loop, health, _):
                await until(lambda: health.serving)
                assert loop.group.epoch == own.info.epoch and not other.fences

    asyncio.run(test())


def test_the_only_group_is_let_go_when_it_drains_and_nothing_runs() -> None:
    async def test() -> None:
        async with FakeRank() as rank, running_loop([rank]) as (loop, health):
            rank.tamper = slow
            generation = make_generation([14], 12)
            loop.submit(generation)
            reading = asyncio.create_task(read(loop, generation))
            rank.info.draining = True
            assert await reading == counting(14, 12) and len(rank.fences) == 1
            await until(lambda: not health.serving and not rank.info.held)
            with pytest.raises(Unavailable):
                loop.submit(make_generation([14], 1))
            rank.info.draining = False  # another one, at the same address
            await until(lambda: health.serving)

    asyncio.run(test())


def test_ranks_that_take_too_few_tokens_a_step_are_no_replacement(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with ranks(2) as (old, new), gateway([old]) as (loop, health, groups):
            await until(lambda: health.serving)
            new.info.max_step_tokens = 8
            groups.set_endpoints([Endpoint(new.address)])
            await until(lambda: "the ranks take 8 tokens a step, but 64 are planned" in caplog.text)
            assert loop.group.epoch == old.info.epoch and health.serving

    caplog.set_level("INFO")
    asyncio.run(test())


def test_a_group_of_other_blocks_takes_the_streams_over() -> None:
    async def test() -> None:
        async with ranks(2) as (old, new), gateway([old]) as (loop, health, groups):
            await until(lambda: health.serving)
            old.tamper = new.tamper = slow
            new.info.block_size_tokens, new.info.num_blocks = 16, 5
            generation = make_generation([14], 30)
            loop.submit(generation)
            reading = asyncio.create_task(read(loop, generation))
            await until(lambda: generation.completion_tokens > 3)
            groups.set_endpoints([Endpoint(new.address)])
            assert await reading == counting(14, 30) and loop.group.epoch == new.info.epoch

    asyncio.run(test())


def test_who_asks_first_gets_all_ranks() -> None:
    async def test() -> None:
        async with FakeRank(0, 2) as first, FakeRank(1, 2) as second:
            addresses = [first.address, second.address]
            group = await ShardGroup.attach(addresses, CHECKPOINT_HASH, STEP_TIMEOUT_S, only_if_free=True)
            with pytest.raises(Unavailable, match="held"):
                await ShardGroup.attach(addresses, CHECKPOINT_HASH, STEP_TIMEOUT_S, only_if_free=True)
            assert len(second.fences) == 1
            await group.close()

    asyncio.run(test())
    gc.collect()
