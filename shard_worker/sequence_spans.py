"""One span for each sequence that a rank was given: what it did for that request, from open to close"""

import time
from dataclasses import dataclass

from common.arrays import U32, from_wire
from common.telemetry.traceparent import Parent, is_traceparent
from common.telemetry.tracer import OK, Ending, Span, Tracer
from tandem.shard.v1 import shard_service_pb2 as pb


@dataclass
class _Totals:
    """Sums over the steps of one phase. A step that served several requests counts in full for each."""

    steps: int = 0
    tokens: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    collective_ns: int = 0
    ahead_ns: int = 0

    def add(self, tokens: int, result: pb.StepResult) -> None:
        self.steps += 1
        self.tokens += tokens
        self.queue_ns += result.queue_ns
        self.compute_ns += result.compute_ns
        self.collective_ns += result.collective_ns
        self.ahead_ns += result.ahead_ns

    def attributes(self, phase: str) -> dict[str, int | float]:
        return {
            f"tandem.{phase}.steps": self.steps,
            f"tandem.{phase}.tokens": self.tokens,
            f"tandem.{phase}.queue_ms": self.queue_ns / 1e6,
            f"tandem.{phase}.compute_ms": self.compute_ns / 1e6,
            f"tandem.{phase}.collective_ms": self.collective_ns / 1e6,
            f"tandem.{phase}.ahead_ms": self.ahead_ns / 1e6,
        }


class _Traced:
    """A sequence whose request is traced. Until its first row is sampled, what it feeds is prefill."""

    def __init__(self, span: Span, began_ns: int) -> None:
        self.span, self.last_ns = span, began_ns
        self.prefill, self.decode = _Totals(), _Totals()
        self._is_decoding = False

    def add(self, tokens: int, sampled: int, result: pb.StepResult, now_ns: int) -> None:
        (self.decode if self._is_decoding else self.prefill).add(tokens, result)
        self._is_decoding |= sampled > 0
        self.last_ns = now_ns


class SequenceSpans:
    """The open sequences of one step stream that are traced. A sequence that is preempted comes back as a new one.

    All calls come from the event loop.
    """

    def __init__(self, tracer: Tracer, rank: int, world_size: int) -> None:
        self._tracer = tracer
        self._about = {"tandem.tp.rank": rank, "tandem.tp.size": world_size}
        self._traced: dict[int, _Traced] = {}

    def ran(self, plan: pb.Plan, result: pb.StepResult, read_ns: int) -> None:
        """Take note of a step whose frame was read at `read_ns`, by time.perf_counter_ns."""
        if not self._tracer.is_on:
            return
        for opening in plan.opens:
            if is_traceparent(opening.traceparent):
                span = self._tracer.begin("shard", read_ns, Parent(opening.traceparent))
                self._traced[opening.sequence] = _Traced(span, read_ns)
        if not self._traced:
            return
        for sequence in from_wire(plan.closes, U32, (-1,), "closes").tolist():
            self._end(sequence, OK, "")
        now_ns = time.perf_counter_ns()
        columns = (plan.row_sequences, plan.row_lengths, plan.row_sampled)
        rows = zip(*(from_wire(column, U32, (-1,), "rows").tolist() for column in columns), strict=True)
        for sequence, tokens, sampled in rows:
            if sequence in self._traced:
                self._traced[sequence].add(tokens, sampled, result, now_ns)

    def lose(self, reason: str) -> None:
        """End all that are open, as errors: nobody will say any more how they ended."""
        if not self._traced:
            return
        for sequence in list(self._traced):
            self._end(sequence, "UNAVAILABLE", reason)
        self._tracer.flush()  # whoever lost its group may be ended soon

    def _end(self, sequence: int, code: str, reason: str) -> None:
        """End one where its last step ended: the plan that closes it comes with the next step, whenever that is."""
        traced = self._traced.pop(sequence, None)
        if traced is None:
            return
        about = {**self._about, **traced.prefill.attributes("prefill"), **traced.decode.attributes("decode")}
        ended_ns = traced.last_ns if code == OK else time.perf_counter_ns()
        traced.span.end(ended_ns, Ending(code, reason, attributes=about))
