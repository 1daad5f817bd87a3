"""May a draft worker be asked now, after how it answered lately? A circuit breaker (Nygard, Release It!, 2007)."""

from collections import deque

WINDOW_ASKS = 20
MAX_MISSES = 5
MIN_OPEN_NS = 1_000_000_000
MAX_OPEN_NS = 10_000_000_000
REVIVED_OPEN_NS = 250_000_000

_NO_PROBE = -1


class Breaker:
    """Opens after MAX_MISSES among the last WINDOW_ASKS asks, for MIN_OPEN_NS; then one ask, the probe, is let through.

    An answered probe closes it; a missed one opens it anew, for twice as long each time, up to MAX_OPEN_NS. Times are
    of any one clock, in ns; an ask is known by the time it was made at.
    """

    def __init__(self) -> None:
        self._hits: deque[bool] = deque(maxlen=WINDOW_ASKS)
        self._open_ns = 0  # for how long it opened; 0 where it is closed
        self._probe_from_ns = 0
        self._probe_ns = _NO_PROBE

    @property
    def is_open(self) -> bool:
        """Whether no more than a probe is let through."""
        return self._open_ns > 0

    def allows(self, now_ns: int) -> bool:
        """Whether an ask may be made now."""
        return not self.is_open or now_ns >= self._probe_from_ns

    def ask(self, now_ns: int) -> None:
        """Note an ask that is made now."""
        if self.is_open:
            # The fate of a probe may never be told, where its request ends: then there is another.
            self._probe_ns, self._probe_from_ns = now_ns, now_ns + self._open_ns

    def record(self, hit: bool, asked_ns: int, now_ns: int) -> None:
        """Note that the ask made at `asked_ns` was answered in time, or missed. While open only the probe counts."""
        if not self.is_open:
            self._hits.append(hit)
            if self._hits.count(False) >= MAX_MISSES:
                self._open(MIN_OPEN_NS, now_ns)
        elif asked_ns == self._probe_ns:
            if hit:
                self._open_ns = 0
                self._hits.clear()
            else:
                self._open(min(2 * self._open_ns, MAX_OPEN_NS), now_ns)

    def revive(self, now_ns: int) -> None:
        """Note that the worker was away and is there again: what it missed meanwhile says nothing of what it will do.

        The probe comes soon, and as it may find the worker still reading what it missed, the next one soon after.
        """
        if self.is_open:
            self._open(REVIVED_OPEN_NS, now_ns)

    def _open(self, open_ns: int, now_ns: int) -> None:
        self._open_ns, self._probe_from_ns, self._probe_ns = open_ns, now_ns + open_ns, _NO_PROBE
