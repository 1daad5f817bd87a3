"""A collector of traces: OTLP over gRPC as the specification has it, on 127.0.0.1, which keeps what it is sent."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

PATIENCE_S = 30.0


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it came. Ids are in hex; an empty parent_id marks a root."""

    service: str
    instance: str
    message: Message

    @property
    def name(self) -> str:
        return self.message.name

    @property
    def trace_id(self) -> str:
        return self.message.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.message.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.message.parent_span_id.hex()

    @property
    def duration_ns(self) -> int:
        return self.message.end_time_unix_nano - self.message.start_time_unix_nano

    @property
    def is_error(self) -> bool:
        return self.message.status.code == Status.STATUS_CODE_ERROR

    @property
    def attributes(self) -> dict[str, Any]:
        return _values(self.message.attributes)


class OtlpSink(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all spans, and all bytes, that exporters send."""

    def __init__(self) -> None:
        self.address = ""
        self._requests: list[pb.ExportTraceServiceRequest] = []

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        """Take one batch."""
        self._requests.append(request)
        return pb.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All that came so far."""
        found = []
        for request in list(self._requests):
            for resource in request.resource_spans:
                about = _values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    for message in scope.spans:
                        found.append(ReceivedSpan(about["service.name"], about["service.instance.id"], message))
        return found

    @property
    def raw(self) -> bytes:
        """Everything that came, as it went over the wire: no text hides in it."""
        return b"".join(request.SerializeToString() for request in list(self._requests))

    def of(self, trace_id: str) -> list[ReceivedSpan]:
        """Return the spans of one trace."""
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait_for(self, holds: Callable[[list[ReceivedSpan]], bool], trace_id: str | None = None) -> list[ReceivedSpan]:
        """Return the spans (of one trace) once `holds` is true of them."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            spans = self.spans if trace_id is None else self.of(trace_id)
            if holds(spans):
                return spans
            if time.monotonic() > deadline_s:
                raise AssertionError(f"of the trace came only {sorted((s.service, s.name) for s in spans)}")
            time.sleep(0.02)


@contextmanager
def running_sink() -> Iterator[OtlpSink]:
    """Run a sink on a free port."""
    sink = OtlpSink()
    with ThreadPoolExecutor(max_workers=4) as threads:
        server = grpc.server(threads)
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(sink, server)  # type: ignore[no-untyped-call]
        sink.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield sink
        finally:
            server.stop(0).wait()


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair) for pair in pairs}


def _value(pair: KeyValue) -> Any:
    value: Any = pair.value
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [getattr(item, item.WhichOneof("value")) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
