"""The health service (grpc.health.v1): is this process able to serve?

Written here because the aio servicer of grpcio-health-checking 1.80 starts as SERVING, and its Watch forgets
the other watchers of a service when one of them leaves.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Response = health_pb2.HealthCheckResponse
HEALTH_SERVICE = "grpc.health.v1.Health"
# What a liveness probe asks for: a process that waits for its ranks or drains must not be killed for it.
LIVE = "live"
LIVE_POLL_S = 1.0


class HealthBoard:
    """What probes are told: NOT_SERVING at first; the same for "" (the process) and all named services.

    LIVE does not follow the others: whoever gets an answer knows that the event loop runs, and SERVING says that work,
    if there is any, goes on.
    """

    def __init__(self, services: Iterable[str] = ()) -> None:
        self._services = frozenset({"", LIVE, *services})
        self._serving = False
        self._draining = False
        self._changed = asyncio.Condition()
        self._is_live: Callable[[], bool] = lambda: True

    def add_to(self, server: grpc.aio.Server) -> None:
        """Answer health checks on `server`. To be called before it starts."""
        health_pb2_grpc.add_HealthServicer_to_server(self, server)

    @property
    def serving(self) -> bool:
        """Whether probes are told SERVING."""
        return self._serving

    def judge_liveness(self, is_live: Callable[[], bool]) -> None:
        """Answer LIVE by what `is_live` returns whenever it is asked for."""
        self._is_live = is_live

    async def set_serving(self, serving: bool) -> None:
        """Tell probes and watchers. After `drain` the answer stays NOT_SERVING."""
        async with self._changed:
            self._serving = serving and not self._draining
            self._changed.notify_all()

    async def drain(self) -> None:
        """Answer NOT_SERVING from now on, whatever `set_serving` says later."""
        self._draining = True
        await self.set_serving(False)

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> health_pb2.HealthCheckResponse:
        """Answer one probe; NOT_FOUND for a service that is not here."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return Response(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Stream the state: at once, then on each change; SERVICE_UNKNOWN for a service that is not here."""
        told = None
        while True:
            async with self._changed:
                while (status := self._status(request.service)) == told:
                    # Nobody tells when work stalls, so whoever watches LIVE has it looked at.
                    with suppress(TimeoutError):
                        async with asyncio.timeout(LIVE_POLL_S if request.service == LIVE else None):
                            await self._changed.wait()
            yield Response(status=status)
            told = status

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return Response.SERVICE_UNKNOWN
        serving = self._is_live() if service == LIVE else self._serving
        return Response.SERVING if serving else Response.NOT_SERVING
