"""Channels and servers: dead peers are noticed, healthy idle ones are left alone, ports are not shared."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import INTERNAL_MESSAGE_BYTES, Keepalive, server_options
from tests.support.raw_server import Handlers, open_channel, raw_server

QUICK = Keepalive(time_ms=1_000, timeout_ms=500)
SERVER = """
import asyncio, grpc
from common.channel import Keepalive, server_options
from common.health import HealthBoard

async def main():
    server = grpc.aio.server(options=server_options(1 << 20, Keepalive(1_000, 500)))
    health = HealthBoard()
    health.add_to(server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


@asynccontextmanager
async def echo_server(listen: str, max_message_bytes: int, keepalive: Keepalive = QUICK) -> AsyncIterator[str]:
    async def echo(request: bytes, context: Any) -> bytes:
        return request

    handlers: Handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    async with raw_server(handlers, server_options(max_message_bytes, keepalive), listen) as address:
        yield address


def test_a_stopped_server_is_noticed() -> None:
    """A SIGSTOPped peer closes nothing: only the unanswered ping tells (1 s + 0.5 s here)."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout

    async def watch(port: int) -> float:
        async with open_channel(f"127.0.0.1:{port}", keepalive=QUICK) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert await call.read() != grpc.aio.EOF
            os.kill(process.pid, signal.SIGSTOP)
            start_s = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asyncio.wait_for(call.read(), 15)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            return time.monotonic() - start_s

    try:
        noticed_after_s = asyncio.run(watch(int(process.stdout.readline())))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert 0.4 < noticed_after_s < 5.0


def test_a_stopped_client_is_noticed() -> None:
    """The server ends the handler of a client that is there no more, and so frees what it holds."""
    client_code = """
import asyncio, sys
from grpc_health.v1 import health_pb2, health_pb2_grpc
from common.channel import Keepalive, open_channel

async def main():
    async with open_channel(sys.argv[1], keepalive=Keepalive(1_000, 500)) as channel:
        call = channel.unary_stream("/test/Wait")(b"")
        await call.read()
        print("streaming", flush=True)
        await call.read()

asyncio.run(main())
"""

    async def run() -> float:
        ended = asyncio.Event()

        async def wait(request: bytes, context: Any) -> AsyncIterator[bytes]:
            try:
                yield b"hello"
                await asyncio.sleep(60)
            finally:
                ended.set()

        handlers: Handlers = {"Wait": grpc.unary_stream_rpc_method_handler(wait)}
        async with raw_server(handlers, server_options(1 << 20, QUICK)) as address:
            client = await asyncio.create_subprocess_exec(
                sys.executable, "-c", client_code, address, stdout=asyncio.subprocess.PIPE
            )
            try:
                assert client.stdout and await client.stdout.readline() == b"streaming\n"
                client.send_signal(signal.SIGSTOP)
                start_s = time.monotonic()
                await asyncio.wait_for(ended.wait(), 15)
                return time.monotonic() - start_s
            finally:
                client.kill()
                await client.wait()

    assert 0.4 < asyncio.run(run()) < 5.0


def test_a_healthy_idle_stream_is_left_alone() -> None:
    """Many pings without data: neither side may call them too many."""
    keepalive = Keepalive(time_ms=200, timeout_ms=2_000)

    async def run() -> None:
        async with (
            echo_server("127.0.0.1:0", 1 << 20, keepalive) as address,
            open_channel(address, keepalive=keepalive) as channel,
        ):
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await call.read()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call.read(), 4)  # 20 pings
            assert await channel.unary_unary("/test/Echo")(b"still here") == b"still here"
            assert channel.get_state() is grpc.ChannelConnectivity.READY

    asyncio.run(run())


def test_large_messages_pass_on_internal_links_and_are_refused_elsewhere(tmp_path: Path) -> None:
    async def run() -> None:
        address = f"unix:{tmp_path}/s.sock"
        async with (
            echo_server(address, INTERNAL_MESSAGE_BYTES),
            open_channel(address, INTERNAL_MESSAGE_BYTES) as internal,
            open_channel(address) as public,
        ):
            message = bytes(16 << 20)
            assert await internal.unary_unary("/test/Echo")(message) == message
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await public.unary_unary("/test/Echo")(message)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await public.unary_unary("/test/Echo")(b"small") == b"small"

    asyncio.run(run())


def test_a_busy_port_is_an_error() -> None:
    async def run() -> None:
        async with echo_server("127.0.0.1:0", 1 << 20) as address:
            with pytest.raises(RuntimeError):
                grpc.aio.server(options=server_options(1 << 20)).add_insecure_port(address)

    asyncio.run(run())


def test_a_slow_reader_stops_the_writer_soon() -> None:
    """Without window probing at most the fixed window is in flight: backpressure after some 10 KiB, not MiB."""

    async def run() -> int:
        written = 0

        async def pour(request: bytes, context: Any) -> None:
            nonlocal written
            with suppress(grpc.aio.InternalError):  # the client is gone
                while True:
                    await context.write(bytes(64))
                    written += 1

        handlers: Handlers = {"Pour": grpc.unary_stream_rpc_method_handler(pour)}
        async with raw_server(handlers) as address, open_channel(address) as channel:
            call = channel.unary_stream("/test/Pour")(b"")
            await call.read()
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.3)
            call.cancel()
        return written

    assert 100 < asyncio.run(run()) < 5_000
