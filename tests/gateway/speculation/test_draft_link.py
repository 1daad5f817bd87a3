"""Links to draft workers that are absent, do not fit, or stand still: what is logged, and that nothing is held up."""

import asyncio
import logging
import signal
import time
from array import array
from typing import Any

import grpc
import pytest

from common.channel import server_options
from common.draft_protocol import PROTOCOL_VERSION
from draft_worker.ngram_proposer import NgramProposer
from draft_worker.service import DraftService
from gateway.speculation import draft_link
from tandem.draft.v1 import draft_service_pb2_grpc
from tests.support.draft_pools import draft, make_request, pooled, running
from tests.support.draft_stream import draft_process
from tests.support.fake_draft import FakeDraft, silent
from tests.support.fake_loop import until

REPEATING = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
# How long a step may be held up on a machine that does other things, too.
MAX_PAUSE_S = 0.5


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what links have logged."""
    return [record.getMessage() for record in caplog.records if record.name == draft_link.__name__]


@pytest.fixture(autouse=True)
def all_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_an_absent_worker_is_told_of_once_and_found(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with FakeDraft() as first:
            pass
        address, port = first.address, int(first.address.rpartition(":")[2])
        async with running([address], 0) as pool:
            await until(lambda: len(lines(caplog)) == 1)
            await asyncio.sleep(0.5)  # several attempts
            for _ in range(2):
                async with FakeDraft(port):
                    await until(lambda: pool.num_ready == 1)
                await until(lambda: pool.num_ready == 0)

    asyncio.run(run())
    kinds = ["is there: fake" if "is there: fake" in line else "is missing" for line in lines(caplog)]
    assert kinds[:4] == ["is missing", "is there: fake"] * 2 and len(kinds) <= 5


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"vocabulary_hash": "other"}, "vocabulary"),
        ({"vocabulary_size": 33}, "33 ids"),
        ({"protocol_version": PROTOCOL_VERSION + 1}, "version"),
    ],
    ids=str,
)
def test_a_worker_that_does_not_fit_is_told_of_once_and_left_in_peace(
    info: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_link, "REFUSED_PAUSE_S", 0.1)

    async def run() -> None:
        async with FakeDraft(**info) as worker, running([worker.address], 0) as pool:
            await until(lambda: len(worker.attaches) == 4)
            assert pool.num_ready == 0 and not pool.ask(make_request(), 4, 1.0)

    asyncio.run(run())
    assert len(lines(caplog)) == 1 and "cannot be used" in lines(caplog)[0] and reason in lines(caplog)[0]


def test_something_else_that_listens_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        server = grpc.aio.server(options=server_options())
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with running([address], 0):
            await until(lambda: len(lines(caplog)) == 1)
        await server.stop(0)

    asyncio.run(run())
    assert "cannot be used" in lines(caplog)[0] and "unimplemented" in lines(caplog)[0]


def test_a_worker_that_does_not_read_is_a_missing_one(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        worker = FakeDraft(context_length=1 << 20)
        worker.reads = False
        async with pooled(worker) as pool:
            longest_s, accepted = 0.0, 0
            request = make_request(1, range(200_000))
            for number in range(2, 52):
                began_s = time.monotonic()
                accepted += pool.ask(make_request(number, request.token_ids), 4, 1.0)
                longest_s = max(longest_s, time.monotonic() - began_s)
            assert 5 <= accepted <= 40  # 0.8 MB each: the rest found no room
            await until(lambda: "read nothing" in lines(caplog)[-1])
            assert longest_s < MAX_PAUSE_S

    asyncio.run(run())


def test_a_stopped_process_holds_nothing_up() -> None:
    async def run() -> None:
        async with running([worker.address], 1) as pool:
            request = make_request(1, REPEATING)
            assert await draft(pool, request) is not None
            worker.signal(signal.SIGSTOP)
            longest_s, began_s, asked = 0.0, time.monotonic(), 0
            while time.monotonic() - began_s < 1.0:
                step_s = time.monotonic()
                if pool.ask(request, 4, 0.01):
                    asked += 1
                    await pool.wait([request], 0.01)
                    assert pool.take(request) is None
                await asyncio.sleep(0.001)
                longest_s = max(longest_s, time.monotonic() - step_s)
            assert 5 <= asked <= 6 and longest_s < MAX_PAUSE_S
            worker.signal(signal.SIGCONT)
            await until(lambda: pool.ask(request, 4, 1.0))
            await pool.wait([request], 1.0)
            assert pool.take(request) is not None

    with draft_process(proposer="ngram") as worker:
        asyncio.run(run())


def test_the_real_service_drafts() -> None:
    async def run() -> None:
        failures = list[BaseException]()
        service = DraftService(max_requests=2, max_count=3, on_failure=failures.append)
        await service.load(NgramProposer)
        server = grpc.aio.server(options=server_options())
        draft_service_pb2_grpc.add_DraftServiceServicer_to_server(service, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with running([address], 1) as pool:
            requests = [make_request(number, REPEATING, temperature=0.7, seed=number) for number in range(3)]
            for step in range(4):
                for request in requests[:2]:
                    drafted = await draft(pool, request, count=4)  # the worker cuts it to its own bound
                    assert drafted is not None and drafted.source == "ngram"
                    assert drafted.token_ids == array("i", [[3, 4, 1], [4, 1, 2], [1, 2, 3], [2, 3, 4]][step])
                    request.token_ids.append(drafted.token_ids[0])
            assert not pool.ask(requests[2], 4, 1.0)
            pool.close(requests[0])
            assert await draft(pool, requests[2]) is not None
            draining = asyncio.create_task(service.drain())
            await until(lambda: pool.num_ready == 0)
            assert not pool.ask(requests[1], 4, 1.0)
            await draining
        await server.stop(0)
        assert service.close() and not failures

    asyncio.run(run())


def test_the_loop_ends_while_a_worker_is_silent() -> None:
    async def run() -> None:
        worker, request = FakeDraft(), make_request()
        worker.tamper = silent
        async with pooled(worker) as pool:
            assert pool.ask(request, 4, 5.0)

    began_s = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - began_s < 3.0
