"""What a rank measures of itself: its steps, and what it holds. What a step costs the group, the gateway tells."""

from common.arrays import U32, from_wire
from common.telemetry.metrics import STEP_BOUNDS_S, Metrics
from tandem.shard.v1 import shard_service_pb2 as pb

ID_BYTES = 4
PARTS = ("queue", "compute", "collective", "encode")


class RankMetrics:
    """Told by the service of each step. All calls come from the event loop."""

    def __init__(self, rank: int) -> None:
        """Every series carries the rank's number."""
        self.registry = Metrics({"rank": str(rank)})
        count, gauge = self.registry.counter, self.registry.gauge
        self._duration_s = self.registry.histogram(
            "tandem.shard.step.duration",
            "s",
            "The rank's own time for a step, what it ran ahead included.",
            STEP_BOUNDS_S,
        ).of()
        time_s = count("tandem.shard.time", "s", "The rank's time in steps, by part.", ("part",))
        self._parts = [time_s.of(part) for part in PARTS]
        self._ahead_s = count(
            "tandem.shard.ahead_time", "s", "The part of the rank's time in steps that passed before their frames came."
        ).of()
        self._tokens = count("tandem.shard.tokens", "{token}", "Token ids in the rank's steps.").of()
        self._sampled = count("tandem.shard.sampled_positions", "{position}", "Positions that were sampled.").of()
        self._opened = count("tandem.shard.sequences_opened", "{sequence}", "Sequences that steps opened.").of()
        self._attaches = count("tandem.shard.attaches", "{attach}", "Times a gateway took the rank.").of()
        self._kv_blocks = gauge(
            "tandem.shard.kv_blocks", "{block}", "KV blocks of the rank, which the gateway gives out."
        ).of()
        self._ready = gauge("tandem.shard.ready", "", "Whether the model is loaded: 1 or 0.").of()

    def loaded(self, info: pb.GetInfoResponse) -> None:
        """The engine is there."""
        self._kv_blocks.set(info.num_blocks)
        self._ready.set(1)

    def attached(self) -> None:
        """A gateway has taken the rank."""
        self._attaches.add()

    def ran(self, plan: pb.Plan, result: pb.StepResult) -> None:
        """A step was run."""
        times_ns = (result.queue_ns, result.compute_ns, result.collective_ns, result.encode_ns)
        for part, time_ns in zip(self._parts, times_ns, strict=True):
            part.value += time_ns * 1e-9
        self._duration_s.observe(sum(times_ns) * 1e-9)
        self._ahead_s.value += result.ahead_ns * 1e-9
        self._tokens.value += len(plan.token_ids) // ID_BYTES
        self._sampled.value += int(from_wire(plan.row_sampled, U32, (-1,), "row_sampled").sum())
        self._opened.value += len(plan.opens)
