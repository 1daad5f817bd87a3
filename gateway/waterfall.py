"""Where a request's time goes: what the step loop adds up for each request it serves."""

import time
from dataclasses import dataclass, field, replace
from functools import cached_property

from tandem.v1 import inference_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class RankTimes:
    """One rank's own account of one step."""

    queue_ns: int
    compute_ns: int
    collective_ns: int
    encode_ns: int
    ahead_ns: int = 0  # the part of all these that passed before the frame came

    @property
    def total_ns(self) -> int:
        """The rank's time for the step from the frame on."""
        return self.queue_ns + self.compute_ns + self.collective_ns + self.encode_ns - self.ahead_ns


@dataclass(frozen=True)
class StepTimes:
    """One step as the gateway saw it."""

    plan_ns: int
    round_trip_ns: int
    ranks: tuple[RankTimes, ...]

    @cached_property
    def wire_ns(self) -> int:
        """Transport and wake-ups: the round trip less the slowest rank's own time."""
        return max(0, self.round_trip_ns - max(rank.total_ns for rank in self.ranks))

    @cached_property
    def work_ns(self) -> int:
        """The slowest rank's time for the step, what it ran ahead included."""
        return max(rank.total_ns + rank.ahead_ns for rank in self.ranks)


@dataclass
class HopSums:
    """The gateway's view of its steps, summed up."""

    steps: int = 0  # passes of the model
    frames: int = 0
    plan_ns: int = 0
    round_trip_ns: int = 0
    wire_ns: int = 0
    decide_ns: int = 0


@dataclass
class Waterfall:
    """The clock of one request. All times are monotonic, of this process."""

    arrived_ns: int = field(default_factory=time.perf_counter_ns)
    tokenize_ns: int = 0
    admitted_ns: int = 0
    first_step_ns: int = 0
    first_token_ns: int = 0
    last_token_ns: int = 0
    counted_tokens: int = 0  # what metrics have seen: tokens sent, and the time of the last one
    counted_until_ns: int = 0
    detokenize_ns: int = 0  # a part of decide_ns
    hops: HopSums = field(default_factory=HopSums)
    first_token_hops: HopSums | None = None  # the steps up to the one that drew the first token
    _ranks: list[list[int]] = field(default_factory=list)

    def begin_step(self, now_ns: int) -> None:
        """Note that a step holding the request is being sent."""
        self.first_step_ns = self.first_step_ns or now_ns

    def add_step(self, times: StepTimes, decide_ns: int, passes: int = 1) -> None:
        """Add a frame of so many steps that held a row of the request, and the gateway's own time after its answers."""
        self.hops.steps += passes
        self.hops.frames += 1
        self.hops.plan_ns += times.plan_ns
        self.hops.round_trip_ns += times.round_trip_ns
        self.hops.wire_ns += times.wire_ns
        self.hops.decide_ns += decide_ns
        if self.first_token_ns and self.first_token_hops is None:
            self.first_token_hops = replace(self.hops)
        if not self._ranks:
            self._ranks = [[0, 0, 0, 0, 0] for _ in times.ranks]
        for total, rank in zip(self._ranks, times.ranks, strict=False):
            total[0] += rank.queue_ns
            total[1] += rank.compute_ns
            total[2] += rank.collective_ns
            total[3] += rank.encode_ns
            total[4] += rank.ahead_ns

    def token(self, now_ns: int) -> None:
        """Note that a token was committed."""
        self.first_token_ns = self.first_token_ns or now_ns
        self.last_token_ns = now_ns

    def timings(self) -> pb.Timings:
        """Return the request's timings up to now."""
        now_ns = time.perf_counter_ns()
        first_token_ns = self.first_token_ns or now_ns
        return pb.Timings(
            tokenize_ns=self.tokenize_ns,
            queue_ns=_span(self.admitted_ns, self.first_step_ns),
            prefill_ns=_span(self.first_step_ns, first_token_ns),
            decode_ns=_span(self.first_token_ns, self.last_token_ns),
            time_to_first_token_ns=_span(self.arrived_ns, first_token_ns),
            total_ns=now_ns - self.arrived_ns,
            steps=self.hops.steps,
            frames=self.hops.frames,
            hops=pb.StepTimings(
                plan_ns=self.hops.plan_ns,
                round_trip_ns=self.hops.round_trip_ns,
                wire_ns=self.hops.wire_ns,
                decide_ns=self.hops.decide_ns,
            ),
            ranks=[
                pb.RankTimings(
                    queue_ns=queue, compute_ns=compute, collective_ns=collective, encode_ns=encode, ahead_ns=ahead
                )
                for queue, compute, collective, encode, ahead in self._ranks
            ],
        )


def _span(start_ns: int, stop_ns: int) -> int:
    """Return the time between two points, 0 when either was not reached."""
    return max(0, stop_ns - start_ns) if start_ns and stop_ns else 0
