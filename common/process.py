"""The life of a service process: start, serve, NOT_SERVING, drain, stop."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc

from common.errors import Unavailable
from common.health import HealthBoard
from common.telemetry.log_lines import TEXT, lines_of

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOP_GRACE_S = 1.0

log = logging.getLogger(__name__)


def set_up_logging(service: str, level: str = "INFO", log_format: str = TEXT) -> None:
    """Log to stderr, one line an event, as text or as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(lines_of(service, log_format))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


async def run_until_signalled(
    server: grpc.aio.Server,
    health: HealthBoard,
    drain: Callable[[], Awaitable[object]],
    drain_budget_s: float,
    failed: asyncio.Event | asyncio.Future[Any] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM, then stop in order; return when everything is stopped.

    `server` has been started; `health` is set by its owner while serving. `drain` refuses new work and
    returns when the running work is done; it is cancelled after `drain_budget_s`, or at once by a second
    signal. `failed` ends the service without draining.

    Raises, when `failed` ended it, the exception of that future where it has one, else Unavailable.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        await _first_of(first.wait(), *_waits(failed))
        stopped_by_signal = first.is_set()
        await health.drain()
        if stopped_by_signal:
            log.info("draining for at most %g s", drain_budget_s)
            await _first_of(drain(), second.wait(), *_waits(failed), timeout_s=drain_budget_s)
        await server.stop(0 if second.is_set() or not stopped_by_signal else STOP_GRACE_S)
        log.info("stopped")
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)
    if not stopped_by_signal:
        if isinstance(failed, asyncio.Future):
            failed.result()
        raise Unavailable("the service failed")


def _waits(failed: asyncio.Event | asyncio.Future[Any] | None) -> list[Awaitable[object]]:
    if failed is None:
        return []
    return [failed.wait() if isinstance(failed, asyncio.Event) else _settled(failed)]


async def _settled(future: asyncio.Future[Any]) -> None:
    await asyncio.wait([future])


async def _first_of(*waits: Awaitable[object], timeout_s: float | None = None) -> None:
    """Wait for the first of `waits` and cancel the others; log what a finished one raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if not task.cancelled() and (error := task.exception()):
                log.error("drain failed", exc_info=error)
        if not done:
            log.warning("drain did not end within %g s", timeout_s)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
