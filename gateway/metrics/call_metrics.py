"""How calls end: every method of the public service, by status code."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from common.telemetry.metrics import Metrics

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[bytes, Context], Awaitable[Any]]
NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class CallMetrics:
    """Counts calls as they end."""

    def __init__(self, registry: Metrics) -> None:
        self._calls = registry.counter(
            "tandem.rpc.calls",
            "{call}",
            "Calls of the public service that ended, by method and status code. CANCELLED: the client ended the call "
            "or its deadline passed.",
            ("method", "code"),
        )

    def counted(self, method: str, handler: Handler) -> Handler:
        """Return the handler with its calls counted: one whose errors have become statuses already."""
        ok = self._calls.of(method, "OK")

        async def call(data: bytes, context: Context) -> Any:
            try:
                answer = await handler(data, context)
            except asyncio.CancelledError:
                self._calls.of(method, "CANCELLED").add()
                raise
            except BaseException:
                self._calls.of(method, _name(context.code())).add()
                raise
            ok.add()
            return answer

        return call


def _name(code: Any) -> str:
    """Return the name of the status that an aborted call was given; what was given none is UNKNOWN to its client."""
    number = code.value[0] if isinstance(code, grpc.StatusCode) else code
    return NAMES.get(number, "UNKNOWN") if number else "UNKNOWN"
