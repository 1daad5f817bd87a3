"""How steps fare: how long on which rank, where the time goes, how large they are."""

from collections.abc import Iterable

from common.telemetry.metrics import STEP_BOUNDS_S, TOKEN_COUNT_BOUNDS, Counter, Histogram, Metrics
from gateway.decision import Job
from gateway.generation import Generation
from gateway.metrics.request_metrics import RequestMetrics
from gateway.scheduling.plan import StepPlan
from gateway.waterfall import StepTimes

PHASES = ("prefill", "decode", "verify")
PARTS = ("queue", "compute", "collective", "encode")
_SMOOTHING = 0.02


class StepMetrics:
    """Told by the step loop of each step."""

    def __init__(self, registry: Metrics, requests: RequestMetrics) -> None:
        self._requests = requests
        self._rank_steps = registry.histogram(
            "tandem.step.duration",
            "s",
            "A rank's own time for a step, what it ran ahead included. Phase: prefill where the step holds part of a "
            "prompt, else verify where it holds drafts, else decode.",
            STEP_BOUNDS_S,
            ("phase", "rank"),
        )
        round_trips = registry.histogram(
            "tandem.step.round_trip",
            "s",
            "Time from sending a step to the last rank's answer.",
            STEP_BOUNDS_S,
            ("phase",),
        )
        self._round_trips = {phase: round_trips.of(phase) for phase in PHASES}
        self._rank_time = registry.counter(
            "tandem.rank.time", "s", "Ranks' own account of their time in steps, by part.", ("rank", "part")
        )
        gateway_time = registry.counter("tandem.gateway.time", "s", "The gateway's time in steps, by part.", ("part",))
        self._plan_s, self._decide_s = gateway_time.of("plan"), gateway_time.of("decide")
        self.hops = registry.histogram(
            "tandem.hop.duration",
            "s",
            "Wire time of an exchange: the round trip less the peer's own time (with ranks, the slowest one's).",
            STEP_BOUNDS_S,
            ("peer_role",),
        )
        self._wire_s = self.hops.of("rank")
        self._step_tokens = registry.histogram(
            "tandem.step.tokens", "{token}", "Token ids in a step, drafts included.", TOKEN_COUNT_BOUNDS
        ).of()
        self._preemptions = registry.counter(
            "tandem.preemptions", "{preemption}", "Times a running request lost its KV blocks to an older one."
        ).of()
        self._durations: dict[str, list[Histogram]] = {phase: [] for phase in PHASES}
        self._parts: list[list[Counter]] = []
        self.decode_compute_s = 0.0  # the slowest rank's, in late decode steps; 0 before the first

    def ran(self, plan: StepPlan, jobs: Iterable[Job | None], times: StepTimes, decide_ns: int) -> None:
        """A step is decided and committed; its jobs' waterfalls do not count it yet."""
        self._enter(plan, times, decide_ns)
        requests = self._requests
        for row, job in zip(plan.rows, jobs, strict=True):
            if job is None:
                continue
            if not job.waterfall.hops.steps:
                requests.began(job)
            if row.sampled and isinstance(job, Generation):
                requests.drew(job, job.waterfall)

    def _enter(self, plan: StepPlan, times: StepTimes, decide_ns: int) -> None:
        phase = phase_of(plan)
        self._round_trips[phase].observe(times.round_trip_ns * 1e-9)
        self._wire_s.observe(times.wire_ns * 1e-9)
        self._plan_s.value += times.plan_ns * 1e-9
        self._decide_s.value += decide_ns * 1e-9
        self._step_tokens.observe(plan.decode_tokens + plan.prefill_tokens)
        self._preemptions.value += plan.preempted
        self._know_ranks(len(times.ranks))
        for duration, parts, rank in zip(self._durations[phase], self._parts, times.ranks, strict=False):
            duration.observe((rank.total_ns + rank.ahead_ns) * 1e-9)
            queue, compute, collective, encode = parts
            queue.value += rank.queue_ns * 1e-9
            compute.value += rank.compute_ns * 1e-9
            collective.value += rank.collective_ns * 1e-9
            encode.value += rank.encode_ns * 1e-9
        if phase == "decode":
            compute_s = max(rank.compute_ns for rank in times.ranks) * 1e-9
            known_s = self.decode_compute_s or compute_s
            self.decode_compute_s = known_s + _SMOOTHING * (compute_s - known_s)

    def _know_ranks(self, count: int) -> None:
        """Have series for so many ranks."""
        for rank in map(str, range(len(self._parts), count)):
            self._parts.append([self._rank_time.of(rank, part) for part in PARTS])
            for phase, durations in self._durations.items():
                durations.append(self._rank_steps.of(phase, rank))


def phase_of(plan: StepPlan) -> str:
    """Return what a step mainly does."""
    if plan.prefill_tokens:
        return "prefill"
    return "verify" if any(row.sampled > 1 for row in plan.rows) else "decode"
