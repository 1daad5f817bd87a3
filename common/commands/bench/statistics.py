"""What a load's requests add up to: percentiles and rates, from tokens that were counted as they came."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.commands.bench.hops import Hops, mean_hops
from common.commands.bench.load import ClosedLoop, Load
from common.commands.bench.trace import Failure, Trace
from tandem.v1.inference_service_pb2 import GenerateFinished


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a set of measurements, with linear interpolation between neighbours."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class LoadResult:
    """How one load went.

    `tokens_per_s` is all tokens over the time from the first request to the last answer. `user_tokens_per_s` is, for
    one request, tokens after the first message over the time they took. `whole_tokens_per_s` is gpt-fast's own
    tokens/s: new tokens over the time of the whole request, prefill included, per sequence, mean over requests.
    `prefill_tokens_per_s` is prompt tokens that were not cached over the time to the first token, by the server's clock
    and without the queue. `mean_streams` is how many requests ran at a time (Little's law).
    """

    load: str
    loop: str
    offered: float
    requests: int
    failures: dict[str, int]
    span_s: float
    mean_streams: float
    prompt_tokens: int
    cached_prompt_tokens: int
    tokens: int
    tokens_per_s: float
    requests_per_s: float
    user_tokens_per_s: Percentiles | None
    whole_tokens_per_s: float
    prefill_tokens_per_s: float
    time_to_first_token_ms: Percentiles
    inter_token_ms: Percentiles | None
    hops: Hops


def percentiles(values: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of `values`, or None when there are none."""
    if not values:
        return None
    p50, p90, p99 = np.percentile(np.asarray(values, dtype=np.float64), (50, 90, 99)).tolist()
    return Percentiles(p50, p90, p99)


def load_result(load: Load, results: Iterable[Trace | Failure]) -> LoadResult | None:
    """Return the sums of one load's requests, or None when none of them was answered."""
    results = list(results)
    traces = [result for result in results if isinstance(result, Trace)]
    if not traces:
        return None
    span_s = (max(t.end_ns for t in traces) - min(t.due_ns for t in traces)) / 1e9
    tokens = sum(t.tokens for t in traces)
    first_token_ms = percentiles([t.time_to_first_token_ns / 1e6 for t in traces])
    assert first_token_ms is not None
    closed = isinstance(load, ClosedLoop)
    return LoadResult(
        load=str(load),
        loop="closed" if closed else "open",
        offered=load.streams if isinstance(load, ClosedLoop) else load.rate_per_s,
        requests=len(traces),
        failures=dict(Counter(result.reason for result in results if isinstance(result, Failure))),
        span_s=span_s,
        mean_streams=sum(t.duration_ns for t in traces) / 1e9 / span_s,
        prompt_tokens=sum(t.finished.usage.prompt_tokens for t in traces),
        cached_prompt_tokens=sum(t.finished.usage.cached_prompt_tokens for t in traces),
        tokens=tokens,
        tokens_per_s=tokens / span_s,
        requests_per_s=len(traces) / span_s,
        user_tokens_per_s=percentiles([t.decoded_tokens / t.decode_ns * 1e9 for t in traces if t.decode_ns]),
        whole_tokens_per_s=sum(t.tokens / t.duration_ns * 1e9 for t in traces) / len(traces),
        prefill_tokens_per_s=_prefill_rate([t.finished for t in traces]),
        time_to_first_token_ms=first_token_ms,
        inter_token_ms=percentiles([gap_ns / 1e6 for t in traces for gap_ns in t.inter_token_ns()]),
        hops=mean_hops([t.finished.timings for t in traces]),
    )


def _prefill_rate(answers: Sequence[GenerateFinished]) -> float:
    prefilled = sum(a.usage.prompt_tokens - a.usage.cached_prompt_tokens for a in answers)
    return prefilled / max(1, sum(a.timings.prefill_ns for a in answers)) * 1e9
