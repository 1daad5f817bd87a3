"""One span for each request that a draft worker drafted for: what it proposed, and what that took"""

import time
from collections import OrderedDict
from dataclasses import dataclass

from common.telemetry.traceparent import Parent, is_traceparent
from common.telemetry.tracer import OK, Ending, Span, Tracer
from tandem.draft.v1 import draft_service_pb2 as pb

# A gateway may forget to close what it opened. Beyond so many, the oldest span ends.
MAX_SPANS = 4096


@dataclass
class _Traced:
    span: Span
    epoch: int
    last_ns: int
    answers: int = 0
    proposals: int = 0  # answers that proposed something
    tokens: int = 0
    ready: int = 0
    late: int = 0
    steps: int = 0
    queue_ns: int = 0
    compute_ns: int = 0

    def add(self, proposal: pb.Proposal, now_ns: int) -> None:
        self.last_ns = now_ns
        self.answers += 1
        self.proposals += proposal.outcome == pb.OUTCOME_PROPOSED
        self.late += proposal.outcome == pb.OUTCOME_LATE
        self.tokens += len(proposal.ids) // 4
        self.ready += proposal.num_ready
        self.steps += proposal.num_steps
        self.queue_ns += proposal.queue_ns
        self.compute_ns += proposal.compute_ns

    def end(self, ended_ns: int, code: str, reason: str) -> None:
        attributes = {
            "tandem.draft.answers": self.answers,
            "tandem.draft.proposals": self.proposals,
            "tandem.draft.tokens": self.tokens,
            "tandem.draft.ready_tokens": self.ready,
            "tandem.draft.late": self.late,
            "tandem.draft.epochs": self.epoch,
            "tandem.draft.steps": self.steps,
            "tandem.draft.queue_ms": self.queue_ns / 1e6,
            "tandem.draft.compute_ms": self.compute_ns / 1e6,
        }
        self.span.end(ended_ns, Ending(code, reason, attributes=attributes))


class RequestSpans:
    """The traced requests of one gateway's stream. One that is opened anew goes on. All calls come from the event loop.

    A span ends where the worker last did something for the request; the gateway closes it soon after.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._traced: OrderedDict[int, _Traced] = OrderedDict()

    def heard(self, batch: pb.Batch, read_ns: int) -> None:
        """Take note of a gateway's batch, read at `read_ns` by time.perf_counter_ns."""
        if not self._tracer.is_on:
            return
        for opening in batch.opens:
            if (known := self._traced.get(opening.request)) is not None:
                known.epoch = max(known.epoch, opening.epoch)
            elif is_traceparent(opening.traceparent):
                span = self._tracer.begin("draft", read_ns, Parent(opening.traceparent))
                self._traced[opening.request] = _Traced(span, opening.epoch, read_ns)
        for closing in batch.closes:
            traced = self._traced.get(closing.request)
            if traced is not None and closing.epoch >= traced.epoch:
                del self._traced[closing.request]
                traced.end(traced.last_ns, OK, "")
        while len(self._traced) > MAX_SPANS:
            _, oldest = self._traced.popitem(last=False)
            oldest.end(time.perf_counter_ns(), "RESOURCE_EXHAUSTED", "FORGOTTEN")

    def answered(self, proposals: list[pb.Proposal]) -> None:
        """Take note of proposals on their way to the gateway."""
        if not self._traced:
            return
        now_ns = time.perf_counter_ns()
        for proposal in proposals:
            if (traced := self._traced.get(proposal.request)) is not None:
                traced.add(proposal, now_ns)

    def lose(self) -> None:
        """The stream has ended: so do all that are open, as errors."""
        if not self._traced:
            return
        for traced in self._traced.values():
            traced.end(time.perf_counter_ns(), "UNAVAILABLE", "STREAM_ENDED")
        self._traced.clear()
        self._tracer.flush()
