"""Does work go on? What a liveness probe wants to know of a loop or a thread"""

import time


class Progress:
    """Notes of whoever works. May be read from any thread.

    Work is under way between `advance` and `rest`; each `advance` is progress.
    """

    def __init__(self, timeout_s: float) -> None:
        """Work without progress for longer than `timeout_s` counts as stalled."""
        self._timeout_s = timeout_s
        self._moved_s: float | None = None

    def advance(self) -> None:
        """Work has begun, or went a step further."""
        self._moved_s = time.monotonic()

    def rest(self) -> None:
        """There is nothing to do, or nothing that could be done here."""
        self._moved_s = None

    @property
    def stalled(self) -> bool:
        """Whether there is work that has made no progress for too long."""
        moved_s = self._moved_s
        return moved_s is not None and time.monotonic() - moved_s > self._timeout_s
