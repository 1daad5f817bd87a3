"""The figures as lines for people."""

from collections.abc import Iterator

from common.commands.top.figures import PHASES, Figures, RankFigures, Spread

BAR_WIDTH = 20
NOTHING = "-"


def lines(f: Figures, where: str) -> list[str]:
    """Return the view, a line each."""
    return [
        f"tandem top   {f.model}   {where}   {f.groups_attached} rank group{'' if f.groups_attached == 1 else 's'}",
        "",
        f"tokens/s      {f.tokens_per_s:9.1f} generated   {f.prompt_tokens_per_s:9.1f} prompt",
        f"requests/s    {f.requests_per_s:9.2f} ended       {f.failed_calls_per_s:9.2f} calls failed",
        f"first token   {_spread(f.time_to_first_token)}",
        f"between tokens{_spread(f.inter_token_latency)}",
        f"queue         {_spread(f.queue_time)}",
        f"running       {f.running:9d}             {f.waiting:9d} waiting   {f.preemptions_per_s:.2f} preempted/s",
        f"KV cache      {_bar(f.kv_utilization)} {f.kv_utilization:4.0%}   prefix hits {_share(f.prefix_hits)}",
        *_speculation(f),
        "",
        *_ranks(f),
    ]


def _speculation(f: Figures) -> Iterator[str]:
    if f.acceptance is None and not f.draft_workers:
        return
    positions = " ".join(f"{share:.0%}" for share in f.acceptance_at)
    yield f"drafts        {_share(f.acceptance):>9} accepted{f'   by position {positions}' if positions else ''}"
    per_round = NOTHING if f.tokens_per_round is None else f"{f.tokens_per_round:.2f}"
    workers = ", ".join(f"{number} {state}" for state, number in f.draft_workers.items()) or "none"
    yield f"              {per_round:>9} tokens a round   waited {_time(f.draft_wait_s)}   workers: {workers}"


def _ranks(f: Figures) -> Iterator[str]:
    if not f.ranks:
        yield "no step was run"
        return
    yield "rank     " + "".join(f"{phase:>12}" for phase in PHASES) + "     compute  collective"
    several = any(rank.gateway for rank in f.ranks)
    for rank in f.ranks:
        yield _rank(rank, several)
    weights = f"   weights read {f.weights_bytes_per_s / 1e9:.1f} GB/s" if f.weights_bytes_per_s else ""
    yield f"wire {_time(f.wire_s)} a step{weights}"


def _rank(rank: RankFigures, several: bool) -> str:
    name = f"{rank.gateway}/{rank.rank}" if several else str(rank.rank)
    steps = "".join(f"{_time(rank.step_s.get(phase)):>12}" for phase in PHASES)
    mark = "   <- straggler" if rank.is_straggler else ""
    return f"{name:<9}{steps}{rank.compute_share:>12.0%}{rank.collective_share:>12.0%}{mark}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return f"{NOTHING:>9}"
    return f"{_time(spread.p50_s):>9} median      {_time(spread.p95_s):>9} p95"


def _time(value_s: float | None) -> str:
    if value_s is None:
        return NOTHING
    return f"{value_s:.2f} s" if value_s >= 1 else f"{value_s * 1e3:.1f} ms"


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _bar(share: float) -> str:
    filled = round(min(1.0, share) * BAR_WIDTH)
    return f"[{'#' * filled}{'.' * (BAR_WIDTH - filled)}]"
