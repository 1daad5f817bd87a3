"""Keeps a gateway and its ranks running together: all of them, or none."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from common.process import STOP_SIGNALS
from common.supervisor_child import Child, ChildCommand

T = TypeVar("T")

BROKEN_STOP_BUDGET_S = 2.0

log = logging.getLogger(__name__)


class ChildEnded(Exception):
    """A child ended although nobody asked it to."""


class Stopped(Exception):
    """A signal asked the supervisor to stop."""


@dataclass(frozen=True)
class Stage:
    """Children that are started and stopped together; each gets `stop_budget_s` before it is killed."""

    commands: Sequence[ChildCommand]
    stop_budget_s: float


@asynccontextmanager
async def supervised(stages: Sequence[Stage]) -> AsyncIterator["Supervisor"]:
    """Run the children of all stages while the body runs; stop them, last stage first, when it ends.

    SIGINT and SIGTERM are the supervisor's while the body runs: the first raises Stopped from
    `while_running`, the second kills all children at once.
    """
    loop = asyncio.get_running_loop()
    supervisor = Supervisor(stages)
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, supervisor.on_signal)
    try:
        await supervisor.start()
        yield supervisor
    finally:
        await supervisor.stop()
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


class Supervisor:
    """The children of all stages. Made by `supervised`."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._running: list[list[Child]] = []
        self._stop_asked = asyncio.Event()
        self._broken = False

    @property
    def children(self) -> list[Child]:
        """All children, in the order they were started."""
        return [child for stage in self._running for child in stage]

    async def while_running(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns, as long as every child runs and no signal comes.

        Raises ChildEnded when a child ends first, Stopped when SIGINT or SIGTERM comes first; `work` is
        cancelled.
        """
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop_asked.wait())
        ends = {asyncio.create_task(child.ended()): child for child in self.children}
        try:
            await asyncio.wait([task, stop, *ends], return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise Stopped
            for end, child in ends.items():
                if end.done():
                    self._broken = True
                    message = f"{child.name} ended unexpectedly, {_exit_text(end.result())}"
                    log.error("%s: ending all", message)
                    raise ChildEnded(message)
            return task.result()
        finally:
            for pending in (task, stop, *ends):
                pending.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await pending

    async def start(self) -> None:
        """Start all children; a later stage does not wait for an earlier one to be ready."""
        for stage in self._stages:
            self._running.append([])
            for command in stage.commands:
                self._running[-1].append(await Child.start(command))

    async def stop(self) -> None:
        """Stop the last stage first; return when no child is left.

        When a child has ended by itself the others get little time: they would drain for a peer that is gone.
        """
        for stage, children in reversed(list(zip(self._stages, self._running, strict=False))):
            budget_s = min(stage.stop_budget_s, BROKEN_STOP_BUDGET_S) if self._broken else stage.stop_budget_s
            await asyncio.gather(*(child.stop(budget_s) for child in children))

    def on_signal(self) -> None:
        """Ask for the end; the second time, kill everything."""
        if self._stop_asked.is_set():
            log.warning("second signal: killing all children now")
            for child in self.children:
                child.kill()
        self._stop_asked.set()


def _exit_text(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
