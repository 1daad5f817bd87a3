"""One answer's waterfall in a terminal: the whole, and what a mean step of it is made of"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from common.commands.printers import finish_reason
from tandem.v1.inference_service_pb2 import GenerateFinished, RankTimings, SpeculationReport, Timings

NAME_WIDTH, TIME_WIDTH, SHARE_WIDTH = 12, 11, 5
# ANSI colours of who spends the time.
GATEWAY, WIRE, RANK, DRAFT, PLAIN = "\x1b[36m", "\x1b[33m", "\x1b[32m", "\x1b[35m", "\x1b[0m"
EIGHTHS = " ▏▎▍▌▋▊▉█"


class Style(NamedTuple):
    """What the terminal can show."""

    columns: int = 80
    has_colours: bool = False
    has_blocks: bool = True


class Bar(NamedTuple):
    """A stretch of time, which begins where the one before ended, and whose it is."""

    name: str
    duration_ns: float
    color: str
    is_beside: bool = False  # it passed beside all others: begins at the left, and moves none


def draw(finished: GenerateFinished, client_ns: int, style: Style) -> Iterator[str]:
    """Yield the lines. `client_ns` is the whole time as the client measured it."""
    usage, times = finished.usage, finished.timings
    cached = f" ({usage.cached_prompt_tokens} cached)" if usage.cached_prompt_tokens else ""
    yield (
        f"{usage.prompt_tokens} prompt tokens{cached}, {usage.completion_tokens} generated, "
        f"ended by {finish_reason(finished)}"
    )
    yield ""
    yield f"the whole answer: {_ms(client_ns)}"
    yield from _chart(_whole(times, client_ns), client_ns, style)
    yield ""
    decoded, decode_s = usage.completion_tokens - 1, times.decode_ns / 1e9
    speed = f"; then {decoded / decode_s:.1f} tokens/s" if decoded > 0 and decode_s else ""
    yield f"first token after {_ms(times.time_to_first_token_ns)}{speed}"
    if not times.steps:
        return
    yield ""
    step_ns = (times.prefill_ns + times.decode_ns) / times.steps
    yield f"a step, mean of {times.steps}: {_ms(step_ns)}"
    yield from _chart(_step(times, finished.speculation), step_ns, style)
    if len(times.ranks) > 1:
        yield ""
        yield f"the same step on each of {len(times.ranks)} ranks: compute + collective"
        slowest_ns = max(rank.compute_ns + rank.collective_ns for rank in times.ranks) / times.steps
        yield from (
            line for number, rank in enumerate(times.ranks) for line in _rank(number, rank, times, slowest_ns, style)
        )
    if finished.speculation.rounds:
        yield ""
        yield _drafts(finished.speculation)


def _whole(times: Timings, client_ns: int) -> list[Bar]:
    phases = [
        Bar("tokenize", times.tokenize_ns, GATEWAY),
        Bar("queue", times.queue_ns, GATEWAY),
        Bar("prefill", times.prefill_ns, RANK),
        Bar("decode", times.decode_ns, RANK),
    ]
    return _with_rest(phases, client_ns, "network")


def _step(times: Timings, speculation: SpeculationReport) -> list[Bar]:
    """Return the parts of a mean step; the ranks' are those of the slowest."""
    rank = max(
        times.ranks,
        key=lambda rank: rank.queue_ns + rank.compute_ns + rank.collective_ns + rank.encode_ns - rank.ahead_ns,
        default=RankTimings(),
    )
    # What was run ahead is work of the step, and passed while the gateway was at the step before.
    computed_ns = max(0, rank.compute_ns + rank.collective_ns - rank.ahead_ns)
    collective_ns = min(rank.collective_ns, computed_ns)
    parts = [
        Bar("draft wait", speculation.draft_wait_ns, DRAFT),
        Bar("plan", times.hops.plan_ns, GATEWAY),
        Bar("wire", times.hops.wire_ns, WIRE),
        Bar("rank queue", rank.queue_ns + rank.encode_ns, RANK),
        Bar("compute", computed_ns - collective_ns, RANK),
        Bar("collective", collective_ns, RANK),
        Bar("decide", times.hops.decide_ns, GATEWAY),
    ]
    bars = _with_rest(parts, times.prefill_ns + times.decode_ns, "other")
    if rank.ahead_ns:
        bars.append(Bar("run ahead", rank.ahead_ns, RANK, is_beside=True))
    return [bar._replace(duration_ns=bar.duration_ns / times.steps) for bar in bars]


def _with_rest(bars: list[Bar], total_ns: float, name: str) -> list[Bar]:
    return [*bars, Bar(name, max(0.0, total_ns - sum(bar.duration_ns for bar in bars)), WIRE)]


def _rank(number: int, rank: RankTimings, times: Timings, slowest_ns: float, style: Style) -> Iterator[str]:
    parts = [rank.compute_ns / times.steps, rank.collective_ns / times.steps]
    bars = [Bar(f"rank {number}", parts[0], RANK), Bar("collective", parts[1], WIRE)]
    yield from _chart(bars, slowest_ns, style)


def _chart(bars: Iterable[Bar], total_ns: float, style: Style) -> Iterator[str]:
    """Yield a line for each bar that takes any time, on a common scale."""
    width = style.columns - NAME_WIDTH - TIME_WIDTH - SHARE_WIDTH - 4
    at_ns = 0.0
    for bar in bars:
        if not bar.duration_ns:
            continue
        start_ns = 0.0 if bar.is_beside else at_ns
        share = bar.duration_ns / total_ns if total_ns else 0.0
        numbers = f"{bar.name:>{NAME_WIDTH}} {_ms(bar.duration_ns):>{TIME_WIDTH}} {share:>{SHARE_WIDTH}.0%}"
        yield f"{numbers}  {_bar(start_ns, bar.duration_ns, total_ns, width, style, bar.color)}"
        at_ns += 0.0 if bar.is_beside else bar.duration_ns


def _bar(start_ns: float, duration_ns: float, total_ns: float, width: int, style: Style, color: str) -> str:
    """Return a bar behind its indent. One too short to be seen is a thin line."""
    first = min(width - 1, int(start_ns / total_ns * width)) if total_ns else 0
    eighths = round(duration_ns / total_ns * width * 8) if total_ns else 0
    eighths = max(1, min(eighths, (width - first) * 8))
    if style.has_blocks:
        text = EIGHTHS[-1] * (eighths // 8) + EIGHTHS[eighths % 8].strip()
    else:
        text = "#" * (eighths // 8) or "|"
    return " " * first + (f"{color}{text}{PLAIN}" if style.has_colours else text)


def _drafts(report: SpeculationReport) -> str:
    share = report.accepted / max(1, report.drafted)
    return (
        f"drafts: {report.accepted} of {report.drafted} tokens accepted ({share:.0%}) in {report.rounds} rounds, "
        f"{report.tokens_per_pass:.2f} tokens a pass"
    )


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:.2f} ms"
