"""A tracer that keeps what it is told, for tests of those who tell it."""

from collections.abc import Iterable

from common.telemetry.traceparent import NO_PARENT, Parent
from common.telemetry.tracer import Attributes, Ending, Hop, Span, Tracer


class RecordedSpan(Span):
    """A span as it was told."""

    def __init__(self, name: str, number: int, parent: Parent, links: Iterable[str]) -> None:
        self.name, self.parent, self.links = name, parent, list(links)
        self.traceparent = f"00-{'a' * 32}-{number:016x}-01"
        self.hops: list[Hop] = []
        self.ended: tuple[str, str] | None = None
        self.attributes: Attributes = {}

    @property
    def is_recording(self) -> bool:
        """Whether it has not ended yet."""
        return self.ended is None

    def add(self, hops: Iterable[Hop]) -> None:
        """Keep them."""
        self.hops += hops

    def end(self, end_ns: int, ending: Ending) -> None:
        """Keep how it ended; it ends once."""
        assert self.ended is None
        self.ended = (ending.code, ending.reason)
        self.name, self.attributes = ending.name or self.name, ending.attributes


class RecordingTracer(Tracer):
    """Keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[RecordedSpan] = []
        self.flushes = 0

    @property
    def is_on(self) -> bool:
        """Always."""
        return True

    def begin(self, name: str, start_ns: int, parent: Parent = NO_PARENT, links: Iterable[str] = ()) -> Span:
        """Keep a new span."""
        self.spans.append(RecordedSpan(name, len(self.spans) + 1, parent, links))
        return self.spans[-1]

    def flush(self) -> None:
        """Count it."""
        self.flushes += 1

    @property
    def told(self) -> list[tuple[str, tuple[str, str] | None]]:
        """Each span's name and how it ended; None: it has not."""
        return [(span.name, span.ended) for span in self.spans]
