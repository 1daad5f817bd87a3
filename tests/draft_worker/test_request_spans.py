"""A draft worker's spans: one a request, also when it is opened anew; bounded, and errors where the stream ended."""

import pytest

from draft_worker import request_spans
from draft_worker.request_spans import RequestSpans
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.recorded_spans import RecordingTracer

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def opens(request: int, epoch: int = 1, traceparent: str = TRACED) -> pb.Batch:
    return pb.Batch(opens=[pb.Open(request=request, epoch=epoch, traceparent=traceparent)])


def closes(request: int, epoch: int = 1) -> pb.Batch:
    return pb.Batch(closes=[pb.Close(request=request, epoch=epoch)])


def test_a_request_is_one_span_with_what_it_was_proposed() -> None:
    tracer = RecordingTracer()
    spans = RequestSpans(tracer)
    spans.heard(opens(5), 1)
    proposed = pb.Proposal(
        request=5, outcome=pb.OUTCOME_PROPOSED, ids=bytes(12), num_ready=1, num_steps=2, queue_ns=10**6, compute_ns=3
    )
    late = pb.Proposal(request=5, outcome=pb.OUTCOME_LATE, queue_ns=10**6)
    spans.answered([proposed, late, pb.Proposal(request=6)])
    spans.heard(opens(5, epoch=2), 2)
    spans.heard(closes(5, epoch=1), 3)  # of what was before
    assert tracer.told == [("draft", None)] and tracer.spans[0].parent.traceparent == TRACED
    spans.heard(closes(5, epoch=2), 4)
    assert tracer.told == [("draft", ("OK", ""))]
    told = tracer.spans[0].attributes
    names = ("answers", "proposals", "tokens", "ready_tokens", "late", "epochs", "steps", "queue_ms")
    assert [told[f"tandem.draft.{name}"] for name in names] == [2, 1, 3, 1, 1, 2, 2, 2.0]


def test_requests_that_are_not_traced_make_no_span() -> None:
    tracer = RecordingTracer()
    spans = RequestSpans(tracer)
    spans.heard(opens(1, traceparent=""), 1)
    spans.heard(opens(2, traceparent="nonsense"), 1)
    spans.answered([pb.Proposal(request=1)])
    spans.lose()
    assert tracer.told == [] and tracer.flushes == 0


def test_spans_are_bounded_and_end_with_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_spans, "MAX_SPANS", 2)
    tracer = RecordingTracer()
    spans = RequestSpans(tracer)
    for request in range(3):
        spans.heard(opens(request), request)
    assert [ended for _, ended in tracer.told] == [("RESOURCE_EXHAUSTED", "FORGOTTEN"), None, None]
    spans.lose()
    assert [ended for _, ended in tracer.told][1:] == [("UNAVAILABLE", "STREAM_ENDED")] * 2
    assert tracer.flushes == 1
