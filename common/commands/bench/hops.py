"""Where a step's time goes, and how fast the engine would be alone: from the waterfalls that answers carry."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from common.commands.bench.trace import Trace
from tandem.v1.inference_service_pb2 import RankTimings, Timings


@dataclass(frozen=True)
class Hops:
    """Mean times of one step, ms. The rank's own are those of the rank that took longest.

    `wall_ms` is the time from one step to the next. The others add up to less where the request's turn has not come,
    and to more where ranks run ahead:
    `ahead_ms` of their times passed while the gateway was at work.
    """

    steps: float
    wall_ms: float
    plan_ms: float
    wire_ms: float
    queue_ms: float
    compute_ms: float
    collective_ms: float
    encode_ms: float
    decide_ms: float
    ahead_ms: float


@dataclass(frozen=True)
class SingleStream:
    """Decode of one stream at a time: the engine alone by the ranks' own clocks, and through gRPC by the client's.

    `steps_per_token` is 1 without speculation; so many times the weights are read for each token.
    """

    engine_tokens_per_s: float
    grpc_tokens_per_s: float
    steps_per_token: float

    @property
    def grpc_share(self) -> float:
        """What the path through the gateway leaves of the engine's speed."""
        return self.grpc_tokens_per_s / self.engine_tokens_per_s


def mean_hops(timings: Sequence[Timings]) -> Hops:
    """Return the mean step of all requests; a step that served several of them counts for each."""
    steps = sum(t.steps for t in timings)
    ranks = [_slowest(t) for t in timings]

    def per_step_ms(*durations_ns: int) -> float:
        return sum(durations_ns) / 1e6 / max(1, steps)

    return Hops(
        steps=steps / max(1, len(timings)),
        wall_ms=per_step_ms(*(t.prefill_ns + t.decode_ns for t in timings)),
        plan_ms=per_step_ms(*(t.hops.plan_ns for t in timings)),
        wire_ms=per_step_ms(*(t.hops.wire_ns for t in timings)),
        queue_ms=per_step_ms(*(rank.queue_ns for rank in ranks)),
        compute_ms=per_step_ms(*(rank.compute_ns for rank in ranks)),
        collective_ms=per_step_ms(*(rank.collective_ns for rank in ranks)),
        encode_ms=per_step_ms(*(rank.encode_ns for rank in ranks)),
        decide_ms=per_step_ms(*(t.hops.decide_ns for t in timings)),
        ahead_ms=per_step_ms(*(rank.ahead_ns for rank in ranks)),
    )


def single_stream(single: Sequence[Trace], prefill: Sequence[Trace]) -> SingleStream | None:
    """Return the rates of requests that ran one at a time, or None where the ranks gave no times.

    The waterfalls of `single` hold the prefill's steps too; those are taken off as measured by `prefill`: requests for
    one token, with prompts of the same length.
    """
    decoded = sum(t.decoded_tokens for t in single)
    if not decoded or not prefill:
        return None
    engine_ns = _beyond_prefill([_engine_ns(t) for t in single], [_engine_ns(t) for t in prefill])
    steps = _beyond_prefill([t.finished.timings.steps for t in single], [t.finished.timings.steps for t in prefill])
    if engine_ns <= 0:
        return None
    return SingleStream(
        engine_tokens_per_s=decoded / engine_ns * 1e9,
        grpc_tokens_per_s=decoded / sum(t.decode_ns for t in single) * 1e9,
        steps_per_token=steps / decoded,
    )


def _beyond_prefill(single: Sequence[int], prefill: Sequence[int]) -> float:
    return sum(single) - len(single) * median(prefill)


def _engine_ns(trace: Trace) -> int:
    """What a loop without network and scheduler would also take: the model, the sampler, the collectives."""
    return max((rank.compute_ns + rank.collective_ns for rank in trace.finished.timings.ranks), default=0)


def _slowest(timings: Timings) -> RankTimings:
    return max(
        timings.ranks,
        key=lambda rank: rank.queue_ns + rank.compute_ns + rank.collective_ns + rank.encode_ns - rank.ahead_ns,
        default=RankTimings(),
    )
