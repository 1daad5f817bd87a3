"""The draft pool with workers that keep the rules: what they are told, which is asked, and when answers count."""

import asyncio
import time
from array import array

import pytest

from common.arrays import I32, from_wire
from gateway.speculation.draft_pool import DraftPool
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.draft_pools import draft, make_request, pooled, running
from tests.support.fake_draft import TARGET, FakeDraft, always, honest, silent
from tests.support.fake_loop import until


def test_a_request_is_opened_once_then_told_what_is_new() -> None:
    async def run() -> None:
        worker = FakeDraft()
        request = make_request(7, [3, 4, 5], temperature=0.5, seed=2**64 - 1, top_k=9)
        async with pooled(worker) as pool:
            drafted = await draft(pool, request)
            assert drafted is not None
            assert (drafted.base_length, drafted.token_ids) == (3, array("i", [6, 7, 8, 9]))
            assert drafted.probabilities == array("f", [0.5] * 4)
            assert drafted.source == "fake" and 0 < drafted.waited_ns < 2e9
            assert pool.take(request) is None  # once
            request.token_ids.extend([6, 7, 30])
            drafted = await draft(pool, request, count=2)
            assert drafted is not None and drafted.base_length == 6
            assert drafted.token_ids == array("i", [31, 0])
            assert worker.ids(7) == [3, 4, 5, 6, 7, 30]
            pool.close(request)
            pool.close(request)
            await until(lambda: not worker.texts)
        assert [attach.target_hash for attach in worker.attaches] == [TARGET.checkpoint_hash]
        opens, commits = worker.batches[0].opens, [commit for batch in worker.batches for commit in batch.commits]
        assert [(o.request, o.epoch, o.prompt_length, o.sampling.seed) for o in opens] == [(7, 1, 3, 2**64 - 1)]
        assert (opens[0].sampling.temperature, opens[0].sampling.top_k) == (0.5, 9)
        assert [(c.epoch, c.round, c.base_length, c.count, c.deadline_ns) for c in commits] == [
            (1, 1, 3, 4, 2 * 10**9),
            (1, 2, 3, 2, 2 * 10**9),
        ]
        assert [from_wire(c.ids, I32, (-1,), "ids").tolist() for c in commits] == [[], [6, 7, 30]]

    asyncio.run(run())


def test_a_worker_that_is_already_draining_gets_no_work() -> None:
    async def run() -> None:
        async with FakeDraft(load=pb.Load(draining=True)) as worker, running([worker.address], 0) as pool:
            await until(lambda: worker.attaches)
            assert not pool.ask(make_request(), 4, 1.0) and not worker.batches

    asyncio.run(run())


def test_a_proposal_of_other_than_the_committed_ids_is_not_taken() -> None:
    async def run() -> None:
        request = make_request()
        async with pooled(FakeDraft()) as pool:
            assert pool.ask(request, 4, 1.0)
            await pool.wait([request], 1.0)
            request.token_ids.append(6)  # committed since: the step went on without the draft
            assert pool.take(request) is None

    asyncio.run(run())


def test_asks_of_one_moment_travel_together() -> None:
    async def run() -> None:
        worker = FakeDraft()
        requests = [make_request(number) for number in range(50)]
        async with pooled(worker) as pool:
            assert all(pool.ask(request, 3, 1.0) for request in requests)
            await pool.wait(requests, 1.0)
            assert all(pool.take(request) for request in requests)
        assert len(worker.batches) == 1 and len(worker.batches[0].commits) == 50

    asyncio.run(run())


def test_a_count_of_zero_tells_without_asking() -> None:
    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        async with pooled(worker) as pool:
            assert pool.ask(request, 0, 1.0)
            await asyncio.wait_for(pool.wait([request], 5.0), 1.0)  # nothing is awaited
            await until(lambda: worker.texts != {})
            assert pool.take(request) is None

    asyncio.run(run())


def test_waiting_ends_with_the_last_answer_or_the_time() -> None:
    async def run() -> None:
        quick, slow = FakeDraft(), FakeDraft()
        slow.tamper = silent
        requests = [make_request(number) for number in range(3)]
        async with pooled(quick, slow) as pool:
            assert pool.ask(requests[0], 4, 1.0) and pool.ask(requests[1], 4, 1.0)  # the least loaded: one each
            began_s = time.monotonic()
            await pool.wait(requests, 0.2)
            assert 0.19 < time.monotonic() - began_s < 1.0
            assert [pool.take(request) is not None for request in requests] == [True, False, False]
            assert pool.ask(requests[0], 4, 1.0)
            await asyncio.wait_for(pool.wait(requests, 5.0), 1.0)

    asyncio.run(run())


def test_a_late_answer_is_ignored() -> None:
    async def late(proposal: pb.Proposal) -> list[pb.Proposal]:
        await asyncio.sleep(0.1)
        return [proposal]

    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        worker.tamper = late
        async with pooled(worker) as pool:
            assert await draft(pool, request, deadline_s=0.02) is None
            await asyncio.sleep(0.2)
            assert pool.take(request) is None
            worker.tamper = honest
            assert await draft(pool, request) is not None

    asyncio.run(run())


def test_requests_spread_and_stay() -> None:
    async def run() -> None:
        workers = [FakeDraft(), FakeDraft(), FakeDraft()]
        workers[1].info.load.waiting = 1000
        workers[1].load.waiting = 1000
        requests = [make_request(number) for number in range(10)]
        async with pooled(*workers) as pool:
            for _ in range(3):
                for request in requests:
                    assert pool.ask(request, 2, 1.0)
                await pool.wait(requests, 1.0)
                assert all(pool.take(request) for request in requests)
            assert [len(worker.texts) for worker in workers] == [5, 0, 5]
        assert [len(batch.opens) for batch in workers[0].batches] == [5, 0, 0]

    asyncio.run(run())


@pytest.mark.parametrize("outcome", [pb.OUTCOME_FULL, pb.OUTCOME_DRAINING])
def test_a_worker_that_cannot_is_left(outcome: "pb.Outcome") -> None:
    async def run() -> None:
        first, second, request = FakeDraft(), FakeDraft(), make_request()
        second.load.waiting = second.info.load.waiting = 5
        first.tamper = always(outcome)
        async with pooled(first, second) as pool:
            assert await draft(pool, request) is None
            assert await draft(pool, request) is not None
            assert second.texts[1] == (2, [3, 4, 5])
            await until(lambda: not first.texts)
            assert pool.num_ready == (1 if outcome == pb.OUTCOME_DRAINING else 2)
            pool.set_addresses([first.address])
            assert not pool.ask(request, 4, 1.0)
            new = make_request(2)
            assert pool.ask(new, 4, 1.0) == (outcome == pb.OUTCOME_FULL)

    asyncio.run(run())


def test_a_worker_is_not_given_more_than_it_remembers() -> None:
    async def run() -> None:
        requests = [make_request(number) for number in range(3)]
        async with pooled(FakeDraft(max_requests=2)) as pool:
            for _ in range(2):
                assert [pool.ask(request, 4, 1.0) for request in requests] == [True, True, False]
                await pool.wait(requests, 1.0)
            pool.close(requests[0])
            assert pool.ask(requests[2], 4, 1.0)

    asyncio.run(run())


def test_a_text_beyond_the_context_is_not_sent() -> None:
    async def run() -> None:
        worker = FakeDraft(context_length=3)
        async with pooled(worker) as pool:
            assert not pool.ask(make_request(1, [1, 2, 3]), 4, 1.0)
            assert pool.ask(make_request(2, [1, 2]), 4, 1.0)

    asyncio.run(run())


@pytest.mark.parametrize("known", [None, 2, 0])
def test_what_was_forgotten_is_told_again(known: int | None) -> None:
    async def run() -> None:
        worker, request = FakeDraft(), make_request(1, range(8))
        async with pooled(worker) as pool:
            assert await draft(pool, request) is not None
            if known is None:
                worker.texts.clear()
            else:
                del worker.texts[1][1][known:]
            request.token_ids.extend([8, 9])
            assert await draft(pool, request) is None  # UNKNOWN or GAP
            drafted = await draft(pool, request)
            assert drafted is not None and drafted.token_ids == array("i", [10, 11, 12, 13])
            assert worker.texts[1] == (2 if known is None else 1, list(range(10)))

    asyncio.run(run())


def test_workers_come_and_go() -> None:
    async def run() -> None:
        request = make_request()
        async with FakeDraft() as one, FakeDraft() as other, running([], 0) as pool:
            assert not pool.ask(request, 4, 1.0)
            for worker in (one, other, one):
                pool.set_addresses([worker.address, worker.address])
                await until(lambda: pool.num_ready == 1)  # none, from one moment to the next, before
                drafted = await draft(pool, request)
                assert drafted is not None and worker.ids(1) == [3, 4, 5]
            assert [len(worker.attaches) for worker in (one, other)] == [2, 1]

    asyncio.run(run())


def test_before_it_runs_nothing_can_be_asked() -> None:
    async def run() -> None:
        request, pool = make_request(), DraftPool(["127.0.0.1:1"], TARGET)
        assert not pool.ask(request, 4, 1.0) and pool.num_ready == 0
        await pool.wait([request], 5.0)
        assert pool.take(request) is None

    asyncio.run(run())
