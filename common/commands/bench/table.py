"""The results for people: tables that fit a terminal."""

from collections.abc import Iterator, Sequence

from common.commands.bench.results import Results, Run
from common.commands.bench.statistics import LoadResult, Percentiles

NONE = "-"


def table_lines(results: Results) -> Iterator[str]:
    """Yield the lines of the terminal's report."""
    yield from head_lines(results)
    yield f"prompts of {results.work['prompt_tokens']} tokens, answers of {results.work['output_tokens']}"
    yield ""
    yield from aligned(LOAD_HEADER, [load_row(load) for load in results.loads])
    yield ""
    yield "mean step, ms"
    yield from aligned(HOP_HEADER, [hop_row(load) for load in results.loads])
    yield ""
    yield from single_stream_lines(results)
    for load in results.loads:
        for reason, count in load.failures.items():
            yield f"{load.load}: {count} failed: {reason}"
        if load.cached_prompt_tokens:
            yield f"{load.load}: {load.cached_prompt_tokens} of {load.prompt_tokens} prompt tokens were cached"
    if results.peak_resident_bytes:
        peaks = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in results.peak_resident_bytes.items())
        yield f"peak memory: {peaks}"
    if results.comparison is not None:
        ratio, metric = results.comparison.ratio, results.comparison.metric
        yield (
            f"against `{results.comparison.command}`: {ratio.median:.2f}x ({ratio.least:.2f} to {ratio.most:.2f}, "
            f"{len(results.comparison.ours)} pairs, {metric} tokens/s)"
        )


def head_lines(run: Run) -> Iterator[str]:
    """Yield what was measured, where and when."""
    model, machine = run.model, run.machine
    yield f"{model.name}, {model.dtype}, quantization {model.quantization}, {model.tensor_parallel_size} rank(s)"
    yield f"{machine.processor}, {machine.cores} cores, {machine.system}; {run.taken_at}"


LOAD_HEADER = ("load", "n", "tok/s", "tok/s/user", "TTFT p50", "p90", "p99", "inter-token p50", "p90", "p99 ms")
HOP_HEADER = ("load", "steps", "wall", "plan", "wire", "queue", "compute", "collective", "encode", "decide", "ahead")


def load_row(load: LoadResult) -> tuple[str, ...]:
    """Return the cells of one load under LOAD_HEADER."""
    user = load.user_tokens_per_s
    return (
        load.load,
        str(load.requests),
        f"{load.tokens_per_s:.1f}",
        NONE if user is None else f"{user.p50:.1f}",
        *_three(load.time_to_first_token_ms, 0),
        *_three(load.inter_token_ms, 1),
    )


def hop_row(load: LoadResult) -> tuple[str, ...]:
    """Return the cells of one load under HOP_HEADER."""
    h = load.hops
    of_ranks_ms = (h.queue_ms, h.compute_ms, h.collective_ms, h.encode_ms)
    times_ms = (h.wall_ms, h.plan_ms, h.wire_ms, *of_ranks_ms, h.decide_ms, h.ahead_ms)
    return (load.load, f"{h.steps:.0f}", *(f"{time_ms:.2f}" for time_ms in times_ms))


def single_stream_lines(results: Results) -> Iterator[str]:
    """Yield what a single stream's decode reached, and of what."""
    single = results.single_stream
    if single is not None:
        yield (
            f"single stream: {single.grpc_tokens_per_s:.1f} tokens/s through gRPC, "
            f"{single.engine_tokens_per_s:.1f} the engine alone ({single.grpc_share:.3f} of it)"
        )
    if (load := results.single_stream_load) is not None:
        yield f"tokens/s by gpt-fast's definition (prefill included, mean of requests): {load.whole_tokens_per_s:.1f}"
        yield f"prefill: {load.prefill_tokens_per_s:.0f} tokens/s"
    if results.weight_bytes_per_token is not None:
        compact = " (compact)" if results.model.compact_saved_bytes else ""
        yield f"weights read: {results.weight_bytes_per_token / 1e6:.1f} MB a token{compact}, {_achieved(results)}"
    if results.bandwidth is not None:
        rates = ", ".join(f"{n}: {rate:.1f}" for n, rate in results.bandwidth.gb_per_s.items())
        yield f"read bandwidth by threads, best of two probes, GB/s: {rates}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a table whose first column is aligned left and all others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        others = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join((row[0].ljust(widths[0]), *others)).rstrip()


def _achieved(results: Results) -> str:
    if results.share_of_peak is None:
        return f"{results.achieved_gb_per_s:.1f} GB/s"
    return f"{results.achieved_gb_per_s:.1f} GB/s, {results.share_of_peak:.0%} of {results.peak_gb_per_s:.1f} GB/s"


def _three(values: Percentiles | None, digits: int) -> tuple[str, ...]:
    if values is None:
        return (NONE, NONE, NONE)
    return tuple(f"{value:.{digits}f}" for value in (values.p50, values.p90, values.p99))
