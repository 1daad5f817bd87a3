"""Spans by OpenTelemetry's SDK. Nothing imports this but `setup.py`, and only where spans are wanted."""

import os
import socket
import threading
import time
from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from common.telemetry.traceparent import NO_PARENT, Parent
from common.telemetry.tracer import CANCELLED, OK, Attributes, Ending, Hop, Span, Tracer, Value

FLUSH_BUDGET_S = 2.0

_PROPAGATOR = TraceContextTextMapPropagator()


class SdkTracer(Tracer):
    """Makes spans and exports them in batches, on a thread of the SDK's."""

    def __init__(self, service: str, attributes: Attributes, exporter: SpanExporter) -> None:
        ours = {
            "service.name": service,
            "service.namespace": "tandem",
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            **_present(attributes),
        }
        # What the variables say about the resource goes before what we say.
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("tandem")

    @property
    def is_on(self) -> bool:
        """Whether spans are made at all."""
        return True

    def begin(self, name: str, start_ns: int, parent: Parent = NO_PARENT, links: Iterable[str] = ()) -> Span:
        """Begin a span; whether it is recorded is the sampler's to say."""
        linked = [Link(get_current_span(_context(Parent(link))).get_span_context()) for link in links]
        # Taken once for a span and its parts, so that a clock that is set meanwhile does not tear them apart.
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            name,
            context=_context(parent),
            kind=SpanKind.INTERNAL if linked else SpanKind.SERVER,
            links=linked,
            start_time=epoch_ns + start_ns,
            record_exception=False,
            set_status_on_exception=False,
        )
        return SdkSpan(self._tracer, span, epoch_ns)

    def flush(self) -> None:
        """Have what is not sent yet sent now, on a thread of its own."""
        threading.Thread(target=self._provider.force_flush, name="spans", daemon=True).start()

    def close(self) -> None:
        """Send what is not sent yet. A collector that does not answer is not waited for longer than the budget."""
        thread = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        thread.start()
        thread.join(FLUSH_BUDGET_S)


class SdkSpan(Span):
    """One span."""

    def __init__(self, tracer: OtelTracer, span: OtelSpan, epoch_ns: int) -> None:
        self._tracer, self._span, self._epoch_ns = tracer, span, epoch_ns
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        self.traceparent = carrier["traceparent"]
        _, trace_id, span_id, _ = self.traceparent.split("-")
        self.log_fields = {"trace_id": trace_id, "span_id": span_id}

    @property
    def is_recording(self) -> bool:
        """Whether the sampler took it."""
        return self._span.is_recording()

    def add(self, hops: Iterable[Hop]) -> None:
        """Add finished parts."""
        if self.is_recording:
            for hop in hops:
                self._add(hop, set_span_in_context(self._span, Context()))

    def end(self, end_ns: int, ending: Ending) -> None:
        """End it."""
        if not self.is_recording:
            return
        if ending.name is not None:
            self._span.update_name(ending.name)
        self._span.set_attributes(_present(ending.attributes))
        if ending.code == CANCELLED:
            self._span.set_attribute("tandem.is_cancelled", True)
        elif ending.code != OK:
            reason = ending.reason or ending.code
            self._span.set_attribute("error.type", reason)
            self._span.set_status(Status(StatusCode.ERROR, reason))
        self._span.end(self._epoch_ns + end_ns)

    def _add(self, hop: Hop, parent: Context) -> None:
        attributes = {"tandem.duration_ms": (hop.end_ns - hop.start_ns) / 1e6, **_present(hop.attributes)}
        span = self._tracer.start_span(
            hop.name, context=parent, attributes=attributes, start_time=self._epoch_ns + hop.start_ns
        )
        for part in hop.parts:
            self._add(part, set_span_in_context(span, Context()))
        span.end(self._epoch_ns + hop.end_ns)


def _context(parent: Parent) -> Context:
    """Return the context of a parent in another process, or one without a parent."""
    if not parent.traceparent:
        return Context()
    return _PROPAGATOR.extract({"traceparent": parent.traceparent, "tracestate": parent.tracestate}, Context())


def _present(attributes: Attributes) -> dict[str, Value]:
    return {key: value for key, value in attributes.items() if value is not None}
