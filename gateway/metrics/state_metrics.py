"""How a gateway stands right now: read off the step loop, the scheduler and the draft workers when somebody asks."""

from collections import Counter as Tally
from pathlib import Path

from common.commands.bench.weights import weight_bytes_per_step
from common.errors import CheckpointError
from common.telemetry.metrics import Counter, Metrics
from gateway.limits import MAX_DRAFT_TOKENS
from gateway.metrics.gateway_metrics import GatewayMetrics
from gateway.metrics.step_metrics import StepMetrics
from gateway.scheduling.scheduler import Scheduler
from gateway.speculation.draft_pool import WORKER_STATES
from gateway.speculation.speculator import Speculator
from gateway.step_loop import StepLoop

BLOCK_STATES = ("used", "cached", "free")
SOURCES = ("worker", "ngram")


def watch(metrics: GatewayMetrics, loop: StepLoop, speculator: Speculator | None, model: Path) -> None:
    """Have the gateway's parts read whenever somebody asks; `model` is the folder of the checkpoint."""
    StateMetrics(metrics.registry, loop)
    BandwidthMetrics(metrics.registry, loop, metrics.steps, model)
    if speculator is not None:
        SpeculationMetrics(metrics.registry, speculator, metrics.steps)


class StateMetrics:
    """Nothing is recorded here: each reading takes what is there."""

    def __init__(self, registry: Metrics, loop: StepLoop) -> None:
        self._loop = loop
        gauge = registry.gauge
        self._running = gauge("tandem.requests.running", "{request}", "Requests that hold KV blocks.").of()
        self._waiting = gauge("tandem.requests.waiting", "{request}", "Requests that wait for KV blocks.").of()
        self._use = gauge(
            "tandem.kv.utilization", "1", "Share of the KV blocks that running requests hold, from 0 to 1."
        ).of()
        blocks = gauge(
            "tandem.kv.blocks",
            "{block}",
            "KV blocks by state: used by running requests, cached for prompts that may come again, free.",
            ("state",),
        )
        self._blocks = {state: blocks.of(state) for state in BLOCK_STATES}
        self._attached = gauge("tandem.rank_group.attached", "", "Whether a rank group is attached: 1 or 0.").of()
        self._ranks = gauge("tandem.rank_group.ranks", "{rank}", "Ranks of the attached group, 0 without one.").of()
        self._losses = registry.counter(
            "tandem.rank_group.losses", "{loss}", "Times the attached rank group was lost."
        ).of()
        registry.before_reading(self._refresh)

    def _refresh(self) -> None:
        loop = self._loop
        group = loop.known_group
        num_ranks = len(group.ranks) if group is not None else 0
        self._attached.set(num_ranks > 0)
        self._ranks.set(num_ranks)
        self._losses.value = loop.losses
        scheduler = loop.scheduler
        if scheduler is not None:
            self._refresh_scheduler(scheduler)

    def _refresh_scheduler(self, scheduler: Scheduler) -> None:
        self._running.set(len(scheduler.running))
        self._waiting.set(len(scheduler.waiting))
        blocks = scheduler.blocks
        total, free, cached = blocks.pool.num_blocks, blocks.pool.num_free, blocks.num_idle
        used = max(0, total - free - cached)
        for state, number in zip(BLOCK_STATES, (used, cached, free), strict=True):
            self._blocks[state].set(number)
        self._use.set(used / total)


class BandwidthMetrics:
    """How fast weights are read: known where the checkpoint's own files are."""

    def __init__(self, registry: Metrics, loop: StepLoop, steps: StepMetrics, model: Path) -> None:
        self._loop, self._steps, self._model = loop, steps, model
        self._of_group: tuple[str, int, int] | None = None
        self._weight_bytes = 0
        self._bandwidth = registry.gauge(
            "tandem.weights.read_bandwidth",
            "By/s",
            "Weights that a decode step reads on all ranks, over the slowest rank's computing time in late decode "
            "steps; 0 before the first and where the weights' files are not at hand.",
        ).of()
        registry.before_reading(self._refresh)

    def _refresh(self) -> None:
        group = self._loop.known_group
        if group is None:
            return
        saved_bytes = sum(rank.compact_saved_bytes for rank in group.ranks)
        of_group = group.ranks[0].dtype, len(group.ranks), saved_bytes
        if of_group != self._of_group:
            try:
                self._weight_bytes = weight_bytes_per_step(self._model, *of_group)
            except CheckpointError:
                self._weight_bytes = 0
            self._of_group = of_group
        if compute_s := self._steps.decode_compute_s:
            self._bandwidth.set(self._weight_bytes / compute_s)


class SpeculationMetrics:
    """What drafts were worth, and how the workers stand."""

    def __init__(self, registry: Metrics, speculator: Speculator, steps: StepMetrics) -> None:
        self._speculator = speculator
        labels = ("source", "position")
        self._drafted = registry.counter(
            "tandem.speculation.draft_tokens",
            "{token}",
            "Drafted tokens that were verified, by source and by position in the draft, from 0.",
            labels,
        )
        self._accepted = registry.counter(
            "tandem.speculation.accepted_tokens",
            "{token}",
            "Drafted tokens that were the target's own, by source and by position in the draft, from 0.",
            labels,
        )
        rounds = registry.counter(
            "tandem.speculation.rounds",
            "{round}",
            "Passes that verified a draft, by its source.",
            ("source",),
        )
        self._rounds: dict[str, Counter] = {source: rounds.of(source) for source in SOURCES}
        for source in SOURCES:
            for position in range(MAX_DRAFT_TOKENS):
                self._drafted.of(source, str(position))
                self._accepted.of(source, str(position))
        self._workers = registry.gauge(
            "tandem.draft.workers",
            "{worker}",
            "Draft workers by state: ready, resting after answers that came too late, draining, missing.",
            ("state",),
        )
        waits = registry.histogram(
            "tandem.speculation.draft_wait",
            "s",
            "Time a step was held up to wait for draft workers.",
            speculator.waits.bounds,
        )
        waits.adopt(speculator.waits)
        if speculator.pool is not None:
            steps.hops.adopt(speculator.pool.wire, "draft")
        registry.before_reading(self._refresh)

    def _refresh(self) -> None:
        for source, record in self._speculator.totals.items():
            self._rounds[source].value = record.rounds
            for position, drafted in enumerate(list(record.drafted_at)):
                self._drafted.of(source, str(position)).value = drafted
            for position, accepted in enumerate(list(record.accepted_at)):
                self._accepted.of(source, str(position)).value = accepted
        states = self._speculator.pool.states() if self._speculator.pool is not None else Tally[str]()
        for state in WORKER_STATES:
            self._workers.of(state).set(states[state])
