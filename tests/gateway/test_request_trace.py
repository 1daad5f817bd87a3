"""A call's span: what it is called, how each kind of ending is told, and that no exception's words get out."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest

from common.errors import InvalidRequest, Overloaded, TandemError
from gateway.request_trace import RequestTrace
from gateway.scoring import Scoring
from tests.support.fake_loop import make_generation
from tests.support.recorded_spans import RecordedSpan, RecordingTracer

PARENT = f"00-{'b' * 32}-{'c' * 16}-01"
SECRET = "what the prompt says"


def trace_of(tracer: RecordingTracer, remaining_s: float | None = None) -> RequestTrace:
    metadata = (("user-agent", "x"), ("traceparent", PARENT))
    context = SimpleNamespace(invocation_metadata=lambda: metadata, time_remaining=lambda: remaining_s)
    return RequestTrace(tracer, "a.Service/Method", cast(Any, context))


def ended_by(error: BaseException, remaining_s: float | None = None) -> tuple[RecordedSpan, BaseException]:
    """Return the span of a call that raised `error`, and what came out."""
    tracer = RecordingTracer()
    expected = TandemError if isinstance(error, KeyError) else type(error)
    with pytest.raises(expected) as caught, trace_of(tracer, remaining_s) as trace:
        trace.operation, trace.model = "chat", "tiny"
        raise error
    (span,) = tracer.spans
    return span, caught.value


@pytest.mark.parametrize(
    ("error", "remaining_s", "ended"),
    [
        (InvalidRequest("field", SECRET), None, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        (Overloaded(SECRET), None, ("RESOURCE_EXHAUSTED", "OVERLOADED")),
        (asyncio.CancelledError(), None, ("CANCELLED", "")),
        (asyncio.CancelledError(), 5.0, ("CANCELLED", "")),
        (asyncio.CancelledError(), 0.0, ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")),
        (GeneratorExit(), None, ("CANCELLED", "")),
        (KeyError(SECRET), None, ("INTERNAL", "KeyError")),
    ],
)
def test_every_ending_is_told_without_words(
    error: BaseException, remaining_s: float | None, ended: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        span, raised = ended_by(error, remaining_s)
    assert (span.name, span.ended, span.parent.traceparent) == ("chat tiny", ended, PARENT)
    assert span.attributes["rpc.response.status_code"] == ended[0]
    assert SECRET not in str(span.attributes) and SECRET not in caplog.text
    assert raised is error or str(raised) == "internal error"


def test_what_a_generation_asked_and_got_is_told() -> None:
    tracer = RecordingTracer()
    with trace_of(tracer) as trace:
        trace.operation, trace.model, trace.request_id, trace.prompt_tokens = "chat", "tiny", "r1", 3
        trace.job = make_generation([1, 2, 3], 5, stop_strings=[SECRET])
        trace.job.accept(7, None)
        assert trace.traceparent == tracer.spans[0].traceparent
    (span,) = tracer.spans
    told = span.attributes
    assert span.ended == ("OK", "")
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (3, 1)
    assert (told["gen_ai.request.max_tokens"], told["gen_ai.response.id"]) == (5, "r1")
    assert SECRET not in str(told)


def test_a_score_is_told_too_and_a_call_that_computes_nothing_keeps_its_name() -> None:
    tracer = RecordingTracer()

    async def score() -> None:
        with trace_of(tracer) as trace:
            trace.operation, trace.model = "score", "tiny"
            trace.job = Scoring([1, 2, 3], 1, 0, trace.waterfall)

    asyncio.run(score())
    with trace_of(tracer):
        pass
    assert [span.name for span in tracer.spans] == ["score tiny", "a.Service/Method"]
    assert tracer.spans[0].hops and not tracer.spans[1].hops
