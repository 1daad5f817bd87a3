"""What the rest of the code knows of a span. This half makes none and imports nothing: telemetry that is off"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from common.telemetry.traceparent import NO_PARENT, Parent

Value = bool | int | float | str | Sequence[str] | Sequence[float]
# A value of None is left out.
Attributes = Mapping[str, Value | None]

OK, CANCELLED = "OK", "CANCELLED"


@dataclass(frozen=True)
class Hop:
    """A finished part of a span. Times are of time.perf_counter_ns; `parts` are what it is made of."""

    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes = field(default_factory=dict)
    parts: Sequence["Hop"] = ()


@dataclass(frozen=True)
class Ending:
    """How a span ended, by a gRPC code's name: OK and CANCELLED are no errors, all others are.

    `reason` is a fixed word (ErrorInfo.reason) or a text of ours, never a caller's. `name` replaces the span's first.
    """

    code: str = OK
    reason: str = ""
    name: str | None = None
    attributes: Attributes = field(default_factory=dict)


class Span:
    """A span that is not there. Times are of time.perf_counter_ns."""

    traceparent: str = ""  # what to send to whoever works on the same request; empty: it is not traced
    log_fields: Mapping[str, str] = {}

    @property
    def is_recording(self) -> bool:
        """Whether anybody will see what is told to this span."""
        return False

    def add(self, hops: Iterable[Hop]) -> None:
        """Add finished parts."""

    def end(self, end_ns: int, ending: Ending) -> None:
        """End the span."""


class Tracer:
    """Makes no spans."""

    @property
    def is_on(self) -> bool:
        """Whether spans are made at all."""
        return False

    def begin(self, name: str, start_ns: int, parent: Parent = NO_PARENT, links: Iterable[str] = ()) -> Span:
        """Begin a span below `parent`, or a trace of its own; `start_ns` is of time.perf_counter_ns.

        `links` are traceparents of others that it belongs to; without any, another process has asked for this work.
        """
        return NO_SPAN

    def flush(self) -> None:
        """Have what is not sent yet sent now; does not wait."""

    def close(self) -> None:
        """Send what is not sent yet; waits two seconds at most."""


NO_SPAN = Span()
OFF = Tracer()
