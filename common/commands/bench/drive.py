"""Putting a load on a gateway, bounded in number and in time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from common.commands.bench.load import ClosedLoop, Load, OpenLoop, arrival_offsets_s
from common.commands.bench.trace import Failure, Trace
from tandem.v1.inference_service_pb2 import GenerateRequest

Send = Callable[[GenerateRequest, int | None], Awaitable[Trace | Failure]]
"""Sends one request; the second argument is when it was due, None for now."""


@dataclass(frozen=True)
class Bounds:
    """No request starts after `requests` of them, nor after `seconds_s`. Those that run are waited for."""

    requests: int
    seconds_s: float


async def drive(
    send: Send, load: Load, requests: Iterator[GenerateRequest], bounds: Bounds, seed: int
) -> list[Trace | Failure]:
    """Put `load` on the gateway and return what became of each request, in the order they ended."""
    bounded = islice(requests, bounds.requests)
    match load:
        case ClosedLoop():
            return await _closed(send, load, bounded, bounds.seconds_s)
        case OpenLoop():
            return await _open(send, load, bounded, bounds.seconds_s, seed)


async def _closed(
    send: Send, load: ClosedLoop, requests: Iterator[GenerateRequest], seconds_s: float
) -> list[Trace | Failure]:
    stop_s = time.monotonic() + seconds_s
    results: list[Trace | Failure] = []

    async def client() -> None:
        for request in requests:  # one iterator for all clients: each takes the next
            results.append(await send(request, None))
            if time.monotonic() >= stop_s:
                return

    async with asyncio.TaskGroup() as clients:
        for _ in range(load.streams):
            clients.create_task(client())
    return results


async def _open(
    send: Send, load: OpenLoop, requests: Iterator[GenerateRequest], seconds_s: float, seed: int
) -> list[Trace | Failure]:
    start_ns = time.perf_counter_ns()
    results: list[Trace | Failure] = []

    async def one(request: GenerateRequest, due_ns: int) -> None:
        results.append(await send(request, due_ns))

    async with asyncio.TaskGroup() as running:
        for request, offset_s in zip(requests, arrival_offsets_s(load.rate_per_s, seed), strict=False):
            if offset_s > seconds_s:
                break
            # Against the schedule, not the last request: a late wake-up must not thin out the load.
            due_ns = start_ns + round(offset_s * 1e9)
            await asyncio.sleep(max(0, due_ns - time.perf_counter_ns()) / 1e9)
            running.create_task(one(request, due_ns))
    return results
