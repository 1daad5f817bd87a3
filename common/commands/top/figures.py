"""From two looks at the metrics to the figures that people watch."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.commands.top.scrape import GATEWAY, Scrape

PHASES = ("prefill", "decode", "verify")
# A rank that computes so much longer than the average of its group holds the others up.
STRAGGLER_RATIO = 1.1


@dataclass(frozen=True)
class Spread:
    """How a time is distributed, in seconds."""

    p50_s: float
    p95_s: float


@dataclass(frozen=True)
class RankFigures:
    """One rank over the window."""

    gateway: int
    rank: int
    step_s: Mapping[str, float]  # mean by phase
    compute_share: float  # of its time in steps
    collective_share: float
    is_straggler: bool


@dataclass(frozen=True)
class Figures:
    """What a cluster does. None: nothing happened from which to tell."""

    model: str
    tokens_per_s: float
    prompt_tokens_per_s: float
    requests_per_s: float
    failed_calls_per_s: float
    running: int
    waiting: int
    kv_utilization: float
    preemptions_per_s: float
    time_to_first_token: Spread | None
    inter_token_latency: Spread | None
    queue_time: Spread | None
    prefix_hits: float | None
    acceptance: float | None
    acceptance_at: list[float]
    tokens_per_round: float | None
    draft_wait_s: float | None
    draft_workers: Mapping[str, int]
    ranks: list[RankFigures]
    groups_attached: int
    wire_s: float | None
    weights_bytes_per_s: float


def figures(now: Scrape, last: Scrape, window: Scrape) -> Figures:
    """Return the figures at `now`: rates since `last`, distributions since `window`, which is no later than that."""
    new, wide = now.since(last), now.since(window)
    span_s = max(new.at_s, 1e-9)
    gauges = [s for many in now.samples.values() for s in many if s.labels.get("model_name")]
    utilizations = [s.value for s in now.matching("tandem_kv_utilization_ratio")]
    calls = new.by("tandem_rpc_calls_total", "code")
    drafted = wide.by("tandem_speculation_draft_tokens_total", "position")
    accepted = wide.by("tandem_speculation_accepted_tokens_total", "position")
    rounds = wide.total("tandem_speculation_rounds_total")
    return Figures(
        model=gauges[0].labels["model_name"] if gauges else "",
        tokens_per_s=new.total("tandem_generation_tokens_total") / span_s,
        prompt_tokens_per_s=new.total("tandem_prompt_tokens_total") / span_s,
        requests_per_s=new.total("tandem_request_finished_total") / span_s,
        failed_calls_per_s=(sum(calls.values()) - calls.get("OK", 0.0)) / span_s,
        running=int(now.total("tandem_requests_running")),
        waiting=int(now.total("tandem_requests_waiting")),
        kv_utilization=max(utilizations, default=0.0),
        preemptions_per_s=new.total("tandem_preemptions_total") / span_s,
        time_to_first_token=spread(wide, "tandem_time_to_first_token_seconds"),
        inter_token_latency=spread(wide, "tandem_inter_token_latency_seconds"),
        queue_time=spread(wide, "tandem_request_queue_time_seconds"),
        prefix_hits=_ratio(
            wide.total("tandem_prefix_cache_hit_tokens_total"), wide.total("tandem_prefix_cache_queried_tokens_total")
        ),
        acceptance=_ratio(sum(accepted.values()), sum(drafted.values())),
        acceptance_at=[accepted.get(at, 0.0) / drafted[at] for at in sorted(drafted, key=int) if drafted[at]],
        tokens_per_round=1 + sum(accepted.values()) / rounds if rounds else None,
        draft_wait_s=mean(wide, "tandem_speculation_draft_wait_seconds"),
        draft_workers={s: int(n) for s, n in now.by("tandem_draft_workers", "state").items() if n},
        ranks=rank_figures(wide),
        groups_attached=int(now.total("tandem_rank_group_attached")),
        wire_s=mean(wide, "tandem_hop_duration_seconds", peer_role="rank"),
        weights_bytes_per_s=now.total("tandem_weights_read_bandwidth_bytes_per_second"),
    )


def rank_figures(wide: Scrape) -> list[RankFigures]:
    """Return every rank of every gateway that has run a step."""
    found = []
    for gateway in sorted(wide.by("tandem_rank_time_seconds_total", GATEWAY), key=int):
        times = {
            rank: wide.by("tandem_rank_time_seconds_total", "part", gateway=gateway, rank=rank)
            for rank in wide.by("tandem_rank_time_seconds_total", "rank", gateway=gateway)
        }
        computes = [parts.get("compute", 0.0) for parts in times.values()]
        average = sum(computes) / len(computes)
        for rank, parts in sorted(times.items(), key=lambda item: int(item[0])):
            whole, compute = sum(parts.values()), parts.get("compute", 0.0)
            if not whole:
                continue
            steps = {
                phase: mean(wide, "tandem_step_duration_seconds", gateway=gateway, rank=rank, phase=phase)
                for phase in PHASES
            }
            found.append(
                RankFigures(
                    gateway=int(gateway),
                    rank=int(rank),
                    step_s={phase: step_s for phase, step_s in steps.items() if step_s is not None},
                    compute_share=compute / whole,
                    collective_share=parts.get("collective", 0.0) / whole,
                    is_straggler=compute == max(computes) and compute > STRAGGLER_RATIO * average,
                )
            )
    return found


def mean(grown: Scrape, name: str, **labels: str) -> float | None:
    """Return the mean of a histogram; None where it is empty."""
    return _ratio(grown.total(f"{name}_sum", **labels), grown.total(f"{name}_count", **labels))


def spread(grown: Scrape, name: str) -> Spread | None:
    """Return median and 95th percentile of a histogram; None where it is empty."""
    at_most = sorted((float(le), count) for le, count in grown.by(f"{name}_bucket", "le").items())
    if not at_most or not at_most[-1][1]:
        return None
    return Spread(quantile(at_most, 0.5), quantile(at_most, 0.95))


def quantile(at_most: list[tuple[float, float]], share: float) -> float:
    """Return the value below which `share` of the values lie, from (bound, values at most so large), as Prometheus'
    histogram_quantile does: evenly spread within a bucket, and the last finite bound where it is beyond."""
    wanted = share * at_most[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in at_most:
        if count >= wanted and bound != float("inf"):
            return lower + (bound - lower) * (wanted - below) / (count - below) if count > below else bound
        if bound != float("inf"):
            lower, below = bound, count
    return lower


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
