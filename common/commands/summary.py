"""Where did an answer's time go? A few lines for people."""

from collections.abc import Iterator

from common.commands.printers import finish_reason
from tandem.v1.inference_service_pb2 import GenerateFinished, SpeculationReport


def summary_lines(finished: GenerateFinished) -> Iterator[str]:
    """Yield the waterfall of one answer: totals first, then the mean of each hop over the steps."""
    usage, times = finished.usage, finished.timings
    steps = max(1, times.steps)

    def per_step(**hops_ns: int) -> str:
        return ", ".join(f"{name} {_ms(hop_ns / steps)}" for name, hop_ns in hops_ns.items())

    yield (
        f"{usage.prompt_tokens} prompt tokens ({usage.cached_prompt_tokens} cached), "
        f"{usage.completion_tokens} generated, ended by {finish_reason(finished)}"
    )
    yield (
        f"first token after {_ms(times.time_to_first_token_ns)} "
        f"(tokenize {_ms(times.tokenize_ns)}, queue {_ms(times.queue_ns)}, prefill {_ms(times.prefill_ns)})"
    )
    yield f"decode {_ms(times.decode_ns)}, {_decode_speed(finished)}; total {_ms(times.total_ns)}"
    if finished.speculation.rounds:
        yield _drafting(finished.speculation)
    hops = times.hops
    parts = per_step(plan=hops.plan_ns, round_trip=hops.round_trip_ns, wire=hops.wire_ns, decide=hops.decide_ns)
    yield f"{times.steps} steps, each: {parts}"
    for number, rank in enumerate(times.ranks):
        parts = per_step(
            queue=rank.queue_ns,
            compute=rank.compute_ns,
            collective=rank.collective_ns,
            encode=rank.encode_ns,
            run_ahead=rank.ahead_ns,
        )
        yield f"rank {number}, each step: {parts}"


def _drafting(report: SpeculationReport) -> str:
    share = report.accepted / max(1, report.drafted)
    from_text = f" ({report.ngram_accepted} from the text itself)" if report.ngram_accepted else ""
    return (
        f"drafts: {report.accepted} of {report.drafted} tokens accepted{from_text}, {share:.0%}, "
        f"in {report.rounds} rounds; {report.tokens_per_pass:.2f} tokens a pass, "
        f"waited {_ms(report.draft_wait_ns / report.rounds)} a round"
    )


def _decode_speed(finished: GenerateFinished) -> str:
    """Tokens after the first one, over the time they took."""
    tokens, decode_s = finished.usage.completion_tokens - 1, finished.timings.decode_ns / 1e9
    return f"{tokens / decode_s:.1f} tokens/s" if tokens > 0 and decode_s > 0 else "no tokens after the first"


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:.2f} ms"
