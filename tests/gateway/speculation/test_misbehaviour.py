"""Whatever a draft worker does, the pool yields what it could have drafted, or nothing."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from common.arrays import F32, I32, to_wire
from gateway.speculation import breaker
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.draft_pools import draft, make_request, pooled
from tests.support.fake_draft import VOCABULARY, FakeDraft, Tamper, always, honest, silent
from tests.support.fake_loop import until

MANY = 10
OPEN_S = 0.1


def changed(**fields: object) -> Tamper:
    """Answer with some fields changed."""

    async def tamper(proposal: pb.Proposal) -> Sequence[pb.Proposal]:
        for name, value in fields.items():
            setattr(proposal, name, value)
        return [proposal]

    return tamper


async def stale_length(proposal: pb.Proposal) -> list[pb.Proposal]:
    proposal.base_length -= 1
    return [proposal]


async def next_round(proposal: pb.Proposal) -> list[pb.Proposal]:
    proposal.round += 1
    return [proposal]


async def noise(proposal: pb.Proposal) -> list[pb.Proposal]:
    """Twenty proposals of random numbers."""
    draw = random.Random(proposal.round)
    return [
        pb.Proposal(
            request=draw.choice((1, 2**64 - 1)),
            epoch=draw.getrandbits(32),
            round=draw.getrandbits(32),
            outcome=draw.getrandbits(31),  # type: ignore[arg-type]
            base_length=draw.getrandbits(32),
            prefix_hash=draw.getrandbits(64),
            ids=draw.randbytes(draw.randrange(64)),
            probabilities=draw.randbytes(draw.randrange(64)),
            known_length=draw.getrandbits(32),
        )
        for _ in range(20)
    ]


MISBEHAVIOURS: dict[str, Tamper] = {
    "an id outside the vocabulary": changed(ids=to_wire([1, VOCABULARY], I32), probabilities=to_wire([1, 1], F32)),
    "a negative id": changed(ids=to_wire([-1], I32), probabilities=to_wire([1], F32)),
    "half an id": changed(ids=b"\1\2"),
    "too many ids": changed(ids=to_wire([1] * 1000, I32), probabilities=to_wire([1] * 1000, F32)),
    "a stale length": stale_length,
    "another length": changed(base_length=2**32 - 1),
    "another prefix": changed(prefix_hash=1),
    "another request": changed(request=99),
    "another epoch": changed(epoch=2**32 - 1),
    "another round": next_round,
    "noise": noise,
    "silence": silent,
    "no outcome": changed(outcome=pb.OUTCOME_UNSPECIFIED),
    "an outcome that is none": changed(outcome=99),
    **{
        pb.Outcome.Name(outcome): always(outcome)
        for outcome in (pb.OUTCOME_UNKNOWN, pb.OUTCOME_GAP, pb.OUTCOME_STALE, pb.OUTCOME_LATE)
    },
    "a gap beyond what it was told": always(pb.OUTCOME_GAP, known_length=2**32 - 1),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_it_yields_nothing_and_opens_the_breaker(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "MIN_OPEN_NS", int(OPEN_S * 1e9))

    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        worker.tamper = MISBEHAVIOURS[name]
        async with pooled(worker) as pool:
            for asked in range(MANY):
                if not pool.ask(request, 4, 0.03):
                    break
                await pool.wait([request], 0.03)
                assert pool.take(request) is None
                request.token_ids.append(asked)
            assert asked in (5, 6)  # five misses; to have forgotten is none the first time
            worker.tamper = honest
            await asyncio.sleep(OPEN_S)
            drafted = await draft(pool, request)  # the probe
            while drafted is None:  # what it said it had forgotten is told anew
                drafted = await draft(pool, request)
            assert len(request.token_ids) == drafted.base_length
            assert worker.ids(1) == list(request.token_ids)

    asyncio.run(run())


def test_repeated_and_reordered_answers_yield_one_each() -> None:
    held = list[pb.Proposal]()

    async def mixed_up(proposal: pb.Proposal) -> list[pb.Proposal]:
        """Send everything that was ever sent, the newest first, twice."""
        held.insert(0, proposal)
        return held * 2

    async def run() -> None:
        worker, requests = FakeDraft(), [make_request(number) for number in range(3)]
        worker.tamper = mixed_up
        async with pooled(worker) as pool:
            for token in range(6, 16):
                for request in requests:
                    assert pool.ask(request, 2, 1.0)
                await pool.wait(requests, 1.0)
                for request in requests:
                    drafted = pool.take(request)
                    assert drafted is not None and drafted.token_ids[0] == token
                    assert pool.take(request) is None
                    request.token_ids.append(token)

    asyncio.run(run())


def test_random_ids_within_the_vocabulary_are_taken_as_they_are() -> None:
    drawn = list[list[int]]()

    async def random_ids(proposal: pb.Proposal) -> list[pb.Proposal]:
        drawn.append([random.Random(proposal.round).randrange(VOCABULARY) for _ in range(4)])
        proposal.ids = to_wire(drawn[-1], I32)
        return [proposal]

    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        worker.tamper = random_ids
        async with pooled(worker) as pool:
            for _ in range(MANY):
                drafted = await draft(pool, request)
                assert drafted is not None and drafted.token_ids.tolist() == drawn[-1]

    asyncio.run(run())


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff", b"", pb.ProposeResponse(attached=pb.GetInfoResponse()).SerializeToString()]
)
def test_a_message_that_is_none_ends_the_stream(data: bytes) -> None:
    async def garbage(proposal: pb.Proposal) -> list[bytes]:
        return [data]

    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        worker.tamper = garbage
        async with pooled(worker) as pool:
            assert await draft(pool, request) is None  # at once: nobody waits for an ended stream
            assert pool.num_ready == 0 and not pool.ask(request, 4, 1.0)

    asyncio.run(run())


def test_a_crash_ends_the_wait_and_the_next_worker_is_told_all() -> None:
    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        worker.tamper = silent
        async with pooled(worker) as pool:
            assert pool.ask(request, 4, 5.0)
            await until(lambda: worker.texts != {})
            waiting = asyncio.create_task(pool.wait([request], 5.0))
            await asyncio.sleep(0)
            await worker.crash()
            await asyncio.wait_for(waiting, 1.0)
            assert pool.take(request) is None and pool.num_ready == 0
            assert not pool.ask(request, 4, 1.0)
            port = int(worker.address.rpartition(":")[2])
            async with FakeDraft(port) as successor:
                await until(lambda: pool.num_ready == 1)
                request.token_ids.append(6)
                drafted = await draft(pool, request)
                assert drafted is not None and drafted.base_length == 4
                assert successor.texts[1] == (2, [3, 4, 5, 6])

    asyncio.run(run())
