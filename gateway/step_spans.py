"""Some of the steps as spans of their own, each linked to the requests it served"""

from collections.abc import Iterable

from common.telemetry.tracer import Ending, Hop, Tracer, Value
from gateway.decision import Job
from gateway.scheduling.plan import StepPlan
from gateway.waterfall import StepTimes


class StepSpans:
    """One step in `every` makes a span; with 0, or where nothing is traced, none does.

    A step serves many requests, so its span is nobody's child: it is the root of a trace of its own.
    """

    def __init__(self, tracer: Tracer, every: int) -> None:
        self._tracer = tracer
        self._every = every if tracer.is_on else 0
        self._left = 1

    def observe(
        self, plan: StepPlan, jobs: Iterable[Job | None], times: StepTimes, began_ns: int, decide_ns: int
    ) -> None:
        """Take note of a step that is over. `began_ns` is of time.perf_counter_ns."""
        if not self._every:
            return
        self._left -= 1
        if self._left:
            return
        self._left = self._every
        links = [job.sequence.traceparent for job in jobs if job is not None and job.sequence.traceparent]
        if not links:
            return
        span = self._tracer.begin("step", began_ns, links=links)
        sent_ns = began_ns + times.plan_ns
        answered_ns = sent_ns + times.round_trip_ns
        ended_ns = answered_ns + decide_ns
        span.add(
            [
                Hop("plan", began_ns, sent_ns),
                Hop("forward", sent_ns, answered_ns, {"tandem.hop.wire_ms": times.wire_ns / 1e6}),
                Hop("decide", answered_ns, ended_ns),
            ]
        )
        attributes: dict[str, Value | None] = {
            "tandem.step.rows": len(plan.rows),
            "tandem.step.passes": plan.passes,
            "tandem.step.decode_tokens": plan.decode_tokens,
            "tandem.step.prefill_tokens": plan.prefill_tokens,
            "tandem.tp.size": len(times.ranks),
            "tandem.rank.queue_ms": [rank.queue_ns / 1e6 for rank in times.ranks],
            "tandem.rank.compute_ms": [rank.compute_ns / 1e6 for rank in times.ranks],
            "tandem.rank.collective_ms": [rank.collective_ns / 1e6 for rank in times.ranks],
            "tandem.rank.ahead_ms": [rank.ahead_ns / 1e6 for rank in times.ranks],
        }
        span.end(ended_ns, Ending(attributes=attributes))
