"""The health service as probes and watchers see it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel, server_options
from common.errors import SettingsError
from common.health import LIVE, HealthBoard
from common.listening import health_port
from common.progress import Progress

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@asynccontextmanager
async def board_and_stub() -> AsyncIterator[tuple[HealthBoard, Any]]:
    board = HealthBoard(["tandem.v1.InferenceService"])
    server = grpc.aio.server(options=server_options(1 << 20))
    board.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield board, health_pb2_grpc.HealthStub(channel)
    await server.stop(0)


async def check(stub: Any, service: str = "") -> int:
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


def test_the_event_loop_is_live_whatever_the_board_says() -> None:
    async def run() -> None:
        async with board_and_stub() as (board, stub):
            assert await check(stub, LIVE) == SERVING
            await board.drain()
            assert (await check(stub), await check(stub, LIVE)) == (NOT_SERVING, SERVING)

    asyncio.run(run())


def test_check_follows_the_board_until_it_drains() -> None:
    async def run() -> None:
        async with board_and_stub() as (board, stub):
            assert await check(stub) == NOT_SERVING
            await board.set_serving(True)
            assert board.serving
            assert await check(stub) == await check(stub, "tandem.v1.InferenceService") == SERVING
            await board.set_serving(False)
            assert await check(stub) == NOT_SERVING
            await board.set_serving(True)
            await board.drain()
            await board.set_serving(True)
            assert await check(stub) == NOT_SERVING

    asyncio.run(run())


def test_liveness_is_what_is_judged_when_it_is_asked_for() -> None:
    async def run() -> None:
        async with board_and_stub() as (board, stub):
            live = True
            board.judge_liveness(lambda: live)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=LIVE))
            assert (await watch.read()).status == await check(stub, LIVE) == SERVING
            live = False
            assert (await check(stub), await check(stub, LIVE)) == (NOT_SERVING, NOT_SERVING)
            assert (await asyncio.wait_for(watch.read(), 60)).status == NOT_SERVING, "nobody has to tell watchers"
            watch.cancel()

    asyncio.run(run())


def test_work_without_progress_stalls() -> None:
    progress = Progress(timeout_s=0.05)
    assert not progress.stalled
    progress.advance()
    time.sleep(0.1)
    assert progress.stalled
    progress.advance()
    progress.rest()
    time.sleep(0.1)
    assert not progress.stalled


def test_a_health_port_answers_health_and_nothing_else(tmp_path: Path) -> None:
    async def run() -> None:
        address, board = f"unix:{tmp_path}/health.sock", HealthBoard()
        async with health_port(address, board), open_channel(address) as channel:
            await board.set_serving(True)
            assert await check(health_pb2_grpc.HealthStub(channel)) == SERVING
            other: Any = channel.unary_unary("/tandem.v1.InferenceService/GetModel")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await other(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            with pytest.raises(SettingsError, match="another process"):
                async with health_port(address, board):
                    pass
        async with health_port("", board):
            pass

    asyncio.run(run())


def test_an_unknown_service_is_not_found() -> None:
    async def run() -> None:
        async with board_and_stub() as (_, stub):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await check(stub, "other")
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            call = stub.Watch(health_pb2.HealthCheckRequest(service="other"))
            assert (await call.read()).status == UNKNOWN
            call.cancel()

    asyncio.run(run())


def test_a_watcher_that_leaves_does_not_deafen_the_others() -> None:
    async def run() -> None:
        async with board_and_stub() as (board, stub):
            first = stub.Watch(health_pb2.HealthCheckRequest())
            second = stub.Watch(health_pb2.HealthCheckRequest())
            assert (await first.read()).status == (await second.read()).status == NOT_SERVING
            first.cancel()
            await asyncio.sleep(0.1)
            for serving, status in ((True, SERVING), (False, NOT_SERVING)):
                await board.set_serving(serving)
                assert (await asyncio.wait_for(second.read(), 5)).status == status
            second.cancel()

    asyncio.run(run())
