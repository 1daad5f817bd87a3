"""A rank's spans: from a sequence's open to its close, prefill and decode apart, an error where the stream ended."""

from collections.abc import Sequence

from common.arrays import U32, to_wire
from shard_worker.sequence_spans import SequenceSpans
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.recorded_spans import RecordingTracer

TRACED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RESULT = pb.StepResult(queue_ns=1_000_000, compute_ns=5_000_000, collective_ns=2_000_000, ahead_ns=500_000)


def plan(
    rows: Sequence[tuple[int, int, int]] = (), opens: Sequence[tuple[int, str]] = (), closes: Sequence[int] = ()
) -> pb.Plan:
    """Return a plan of rows of (sequence, ids, sampled)."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pb.Plan(
        opens=[pb.SequenceOpen(sequence=number, traceparent=parent) for number, parent in opens],
        closes=to_wire(list(closes), U32),
        row_sequences=to_wire(list(columns[0]), U32),
        row_lengths=to_wire(list(columns[1]), U32),
        row_sampled=to_wire(list(columns[2]), U32),
    )


def test_a_sequence_is_one_span_with_its_totals() -> None:
    tracer = RecordingTracer()
    spans = SequenceSpans(tracer, rank=1, world_size=2)
    spans.ran(plan([(7, 30, 0)], opens=[(7, TRACED)]), RESULT, 1)
    spans.ran(plan([(7, 20, 1)]), RESULT, 2)
    spans.ran(plan([(7, 4, 4)]), RESULT, 3)
    assert tracer.told == [("shard", None)] and tracer.spans[0].parent.traceparent == TRACED
    spans.ran(plan([(8, 1, 1)], opens=[(8, "")], closes=[7]), RESULT, 4)
    assert tracer.told == [("shard", ("OK", ""))]
    told = tracer.spans[0].attributes
    assert (told["tandem.tp.rank"], told["tandem.tp.size"]) == (1, 2)
    assert [told[f"tandem.prefill.{name}"] for name in ("steps", "tokens", "compute_ms")] == [2, 50, 10.0]
    names = ("steps", "tokens", "queue_ms", "compute_ms", "collective_ms", "ahead_ms")
    assert [told[f"tandem.decode.{name}"] for name in names] == [1, 4, 1.0, 5.0, 2.0, 0.5]


def test_what_is_not_traced_or_no_traceparent_makes_no_span() -> None:
    tracer = RecordingTracer()
    spans = SequenceSpans(tracer, 0, 1)
    spans.ran(plan([(1, 5, 1), (2, 5, 1)], opens=[(1, ""), (2, "not one")]), RESULT, 1)
    spans.ran(plan(closes=[1, 2, 3]), RESULT, 2)
    spans.lose("STREAM_ENDED")
    assert tracer.told == [] and tracer.flushes == 0


def test_a_stream_that_ends_ends_its_spans_as_errors_and_sends_them_at_once() -> None:
    tracer = RecordingTracer()
    spans = SequenceSpans(tracer, 0, 1)
    spans.ran(plan([(1, 5, 1), (2, 5, 1)], opens=[(1, TRACED), (2, TRACED)]), RESULT, 1)
    spans.ran(plan(closes=[1]), RESULT, 2)
    spans.lose("WRONG_STEP")
    spans.lose("STREAM_ENDED")
    assert tracer.told == [("shard", ("OK", "")), ("shard", ("UNAVAILABLE", "WRONG_STEP"))]
    assert tracer.flushes == 1
