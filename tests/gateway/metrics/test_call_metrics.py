"""Is every call counted under the status that its client gets?"""

import asyncio
from typing import Any

import grpc
import pytest

from common.errors import Overloaded, RequestFailed
from common.status import translated
from common.telemetry.metrics import Metrics
from gateway.metrics.call_metrics import CallMetrics


class Service:
    def __init__(self) -> None:
        self.left = asyncio.Event()

    @translated
    async def call(self, data: bytes, context: Any) -> bytes:
        if data == b"full":
            raise Overloaded("too many wait")
        if data == b"bug":
            raise RequestFailed("not finite")
        if data == b"slow":
            try:
                await asyncio.Event().wait()
            finally:
                # Counted once this handler and whoever called it are through.
                asyncio.get_running_loop().call_soon(self.left.set)
        return data


async def counts() -> dict[tuple[str, ...], float]:
    metrics, service = Metrics(), Service()
    handler = CallMetrics(metrics).counted("Echo", service.call)
    server = grpc.aio.server()
    methods: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo: Any = channel.unary_unary("/test.Service/Echo")
        for data in (b"fine", b"fine", b"full", b"bug"):
            try:
                await echo(data)
            except grpc.aio.AioRpcError:
                assert data in (b"full", b"bug")
        with pytest.raises(grpc.aio.AioRpcError):
            await echo(b"slow", timeout=0.2)
        (family,) = metrics.read()
        await asyncio.wait_for(service.left.wait(), 60)
    await server.stop(None)
    return {labels: series.value for labels, series in family.items() if not hasattr(series, "bounds")}


def test_calls_are_counted_by_their_status() -> None:
    assert asyncio.run(asyncio.wait_for(counts(), 60)) == {
        ("Echo", "OK"): 2,
        ("Echo", "RESOURCE_EXHAUSTED"): 1,
        ("Echo", "INTERNAL"): 1,
        ("Echo", "CANCELLED"): 1,
    }
