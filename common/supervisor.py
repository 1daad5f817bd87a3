"""Keeps a gateway and its workers running together: what may be started again is, and else all end with the first."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from common.process import STOP_SIGNALS
from common.supervisor_child import Child, ChildCommand

T = TypeVar("T")

BROKEN_STOP_BUDGET_S = 2.0
RESTART_PAUSE_S = 0.5
# Children that end so soon after their start, so often in a row, will not do better the next time.
SHORT_LIFE_S = 10.0
MAX_SHORT_LIVES = 5

log = logging.getLogger(__name__)


class ChildEnded(Exception):
    """A child ended although nobody asked it to."""


class Stopped(Exception):
    """A signal asked the supervisor to stop."""


@dataclass(frozen=True)
class Stage:
    """Children that are started and stopped together; each gets `stop_budget_s` before it is killed.

    With `restarts` they are started again, all of them, when one has ended by itself. `leftovers` are files that an
    earlier start may have left and that must be gone before the next.
    """

    commands: Sequence[ChildCommand]
    stop_budget_s: float
    restarts: bool = False
    leftovers: Sequence[Path] = ()


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


class Crew:
    """The running children of one stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._started_s = 0.0
        self._short_lives = 0
        self.children: list[Child] = []

    async def start(self) -> None:
        """Start all children."""
        for file in self._stage.leftovers:
            file.unlink(missing_ok=True)
        self._started_s = time.monotonic()
        self.children = []
        for command in self._stage.commands:
            self.children.append(await Child.start(command))

    async def stop(self, broken: bool) -> None:
        """Return when no child is left. `broken` ones get little time: they would drain for a peer that is gone."""
        budget_s = min(self._stage.stop_budget_s, BROKEN_STOP_BUDGET_S) if broken else self._stage.stop_budget_s
        await asyncio.gather(*(child.stop(budget_s) for child in self.children))

    async def keep(self, restarting: bool) -> NoReturn:
        """Start the children again as often as one ends, if they may be.

        Raises ChildEnded when they may not, or when that has become hopeless.
        """
        while True:
            message = await self._first_end()
            lived_s = time.monotonic() - self._started_s
            self._short_lives = self._short_lives + 1 if lived_s < SHORT_LIFE_S else 0
            if not (restarting and self._stage.restarts) or self._short_lives >= MAX_SHORT_LIVES:
                log.error("%s: ending all", message)
                raise ChildEnded(message)
            log.error("%s: starting %s again", message, ", ".join(child.name for child in self.children))
            await self.stop(broken=True)
            await asyncio.sleep(RESTART_PAUSE_S)
            await self.start()

    async def _first_end(self) -> str:
        """Wait until a child has ended, and return which, and how."""
        ends = {asyncio.create_task(child.ended()): child for child in self.children}
        try:
            ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            end = ended.pop()
            return f"{ends[end].name} ended unexpectedly, {_exit_text(end.result())}"
        finally:
            await _cancelled(*ends)


class Supervisor:
    """The children of all stages. Made by `supervised`."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._crews = [Crew(stage) for stage in stages]
        self._stop_asked = asyncio.Event()
        self._broken = False

    @property
    def children(self) -> list[Child]:
        """All children, in the order of their stages."""
        return [child for crew in self._crews for child in crew.children]

    async def while_running(self, work: Coroutine[Any, Any, T], restarting: bool = False) -> T:
        """Return what `work` returns, as long as every child runs and no signal comes.

        With `restarting` stages that may be are started again when a child ends. Raises ChildEnded when a child ends
        for good, Stopped when SIGINT or SIGTERM comes first; `work` is cancelled.
        """
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stop_asked.wait())
        keepers = [asyncio.create_task(crew.keep(restarting)) for crew in self._crews]
        try:
            await asyncio.wait([task, stop, *keepers], return_when=asyncio.FIRST_COMPLETED)
            if stop.done():
                raise Stopped
            for keeper in keepers:
                if keeper.done():
                    self._broken = True
                    keeper.result()
            return task.result()
        finally:
            await _cancelled(task, stop, *keepers)

    async def start(self) -> None:
        """Start all children; a later stage does not wait for an earlier one to be ready."""
        for crew in self._crews:
            await crew.start()

    async def stop(self) -> None:
        """Stop the last stage first; return when no child is left."""
        for crew in reversed(self._crews):
            await crew.stop(self._broken)

    def on_signal(self) -> None:
        """Ask for the end; the second time, kill everything."""
        if self._stop_asked.is_set():
            log.warning("second signal: killing all children now")
            for child in self.children:
                child.kill()
        self._stop_asked.set()


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what is not done and return when all is."""
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


def _exit_text(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
