"""A process's figures: plain numbers that cost next to nothing to record, read when somebody scrapes or pushes them.

The one API for metrics. A family has a name in OpenTelemetry's form (`tandem.step.duration`, unit `s`), from which its
name in Prometheus follows (`tandem_step_duration_seconds`); whoever records keeps the series itself, so no label is
looked up on the way. Label values come from small closed sets: never a tenant, a request id, an address or text.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

MAX_SERIES = 512  # of one family; more would mean that a label's values are not a closed set

UNIT_SUFFIXES = {"s": "_seconds", "By": "_bytes", "1": "_ratio", "By/s": "_bytes_per_second"}

# Bounds of histograms, in seconds: of whole requests, of what one sees before or between tokens, of parts of a step.
REQUEST_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0
)  # fmt: skip
STEP_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5
)  # fmt: skip
TOKEN_COUNT_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)


class Kind(Enum):
    """What a family's numbers mean."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Counter:
    """A sum that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def add(self, amount: float = 1) -> None:
        """Add `amount`, at least 0."""
        self.value += amount


class Gauge:
    """A number as it is now."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        """Say how it is now."""
        self.value = value


class Histogram:
    """How often a value lay where: `counts[i]` values were at most `bounds[i]` and above the bound before."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Enter a value, or `times` equal ones."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


Series = Counter | Gauge | Histogram
S = TypeVar("S", Counter, Gauge, Histogram)


@dataclass(frozen=True, eq=False)
class Family(Generic[S]):
    """All series of one name: one for each combination of label values that occurs."""

    name: str  # with dots
    unit: str  # UCUM: s, By, By/s, 1 for shares, or {thing}; empty for what is 1 or 0
    help: str
    kind: Kind
    labels: tuple[str, ...]
    make: Callable[[], S]
    series: dict[tuple[str, ...], S] = field(default_factory=dict)

    def of(self, *values: str) -> S:
        """Return the series of these label values; the caller keeps it."""
        known = self.series.get(values)
        return known if known is not None else self.adopt(self.make(), *values)

    def adopt(self, series: S, *values: str) -> S:
        """Take over a series that its owner fills by itself."""
        assert len(values) == len(self.labels) and len(self.series) < MAX_SERIES, self.name
        self.series[values] = series
        return series

    def items(self) -> list[tuple[tuple[str, ...], Series]]:
        """Return label values and series of all there are now."""
        return list(self.series.items())

    @property
    def prometheus_name(self) -> str:
        """The name in Prometheus' form, without the suffixes of a kind (`_total`, `_bucket`)."""
        return self.name.replace(".", "_") + UNIT_SUFFIXES.get(self.unit, "")


AnyFamily = Family[Counter] | Family[Gauge] | Family[Histogram]


class Metrics:
    """All families of a process. Recording happens wherever it likes; reading may come from any thread."""

    def __init__(self, constant_labels: Mapping[str, str] | None = None) -> None:
        """`constant_labels` stand on every series."""
        self.constant_labels = dict(constant_labels or {})
        self._families: dict[str, AnyFamily] = {}
        self._refreshes: list[Callable[[], None]] = []

    def counter(self, name: str, unit: str, help: str, labels: Iterable[str] = ()) -> Family[Counter]:
        """Return a new family of counters."""
        return self._add(Family(name, unit, help, Kind.COUNTER, tuple(labels), Counter))

    def gauge(self, name: str, unit: str, help: str, labels: Iterable[str] = ()) -> Family[Gauge]:
        """Return a new family of gauges."""
        return self._add(Family(name, unit, help, Kind.GAUGE, tuple(labels), Gauge))

    def histogram(
        self, name: str, unit: str, help: str, bounds: tuple[float, ...], labels: Iterable[str] = ()
    ) -> Family[Histogram]:
        """Return a new family of histograms with these bounds, in the unit, ascending."""
        return self._add(Family(name, unit, help, Kind.HISTOGRAM, tuple(labels), lambda: Histogram(bounds)))

    def before_reading(self, refresh: Callable[[], None]) -> None:
        """Have `refresh` called before each reading, from any thread: it sets what nobody records."""
        self._refreshes.append(refresh)

    def read(self) -> list[AnyFamily]:
        """Return all families, up to date."""
        for refresh in self._refreshes:
            refresh()
        return list(self._families.values())

    def _add(self, family: Family[S]) -> Family[S]:
        assert family.name not in self._families, family.name
        self._families[family.name] = family
        return family
