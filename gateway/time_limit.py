"""A limit on each turn of what goes round often: `asyncio.timeout`, but one timer for all turns instead of one each."""

import asyncio
from types import TracebackType
from typing import Self


class TimeLimit:
    """A context manager that one task enters again and again, never twice at once.

    The body is cancelled once it has lasted for `limit_s`, and the context then raises TimeoutError. To be closed.
    """

    def __init__(self, limit_s: float) -> None:
        """To be called in a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None  # who is inside
        self._entered_s = 0.0
        self._cancelling = 0  # by others, when the task entered
        self._expired = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None and self._task is None
        self._task, self._cancelling = task, task.cancelling()
        self._entered_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._entered_s + self._limit_s, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._expired:
            return
        self._expired = False
        assert task is not None
        # Where somebody else cancelled the task too, that is what it shall hear of.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Cancel the body if it is late; else look again when it may be. Nobody inside: the next entry sets a timer."""
        self._timer = None
        if self._task is None:
            return
        due_s = self._entered_s + self._limit_s
        if self._loop.time() < due_s:
            self._timer = self._loop.call_at(due_s, self._look)
        else:
            self._expired = True
            self._task.cancel()
