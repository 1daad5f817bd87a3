"""The whole report on one page: what was measured, the figures that count, and four pictures."""

from collections.abc import Iterator, Sequence

from common.commands.bench.picture.latency import draw_latency
from common.commands.bench.picture.roofline import draw_roofline
from common.commands.bench.picture.svg import Box, Svg
from common.commands.bench.picture.waterfall import draw_waterfall
from common.commands.bench.results import Results, RooflinePoint

WIDTH, HEIGHT, MARGIN = 960, 790, 28
FIGURES = Box(MARGIN, 84, WIDTH - 2 * MARGIN, 58)
ROOFLINE = Box(MARGIN, 168, 500, 370)
FIRST_TOKEN = Box(MARGIN + 524, 168, 380, 185)
INTER_TOKEN = Box(MARGIN + 524, 353, 380, 185)
WATERFALL = Box(MARGIN, 558, WIDTH - 2 * MARGIN, 210)


def report_svg(results: Results, earlier: Sequence[RooflinePoint] = ()) -> str:
    """Return the report as one SVG file; `earlier` are points of other runs for the roofline."""
    model, machine = results.model, results.machine
    svg = Svg(WIDTH, HEIGHT, f"Tandem bench: {model.name}")
    svg.text(MARGIN, 38, f"{model.name}, {model.dtype}, TP {model.tensor_parallel_size}", 20, bold=True)
    stored = "" if model.quantization == "none" else f"{model.quantization} weights; "
    svg.text(
        MARGIN,
        60,
        f"{stored}prompts of {results.work['prompt_tokens']} tokens, answers of {results.work['output_tokens']}; "
        f"{machine.processor}, {machine.cores} cores; {results.taken_at[:16].replace('T', ' ')} UTC",
        12,
        "muted",
    )
    shown = list(figures(results))
    for number, (value, meaning) in enumerate(shown):
        x = FIGURES.x + number * FIGURES.width / max(4, len(shown))
        svg.text(x, FIGURES.y + 26, value, 26, bold=True)
        svg.text(x, FIGURES.y + 46, meaning, 12, "muted")
    draw_roofline(svg, ROOFLINE, results.roofline, earlier, results.peak_gb_per_s)
    draw_latency(svg, FIRST_TOKEN, results.loads, "Time to first token", lambda load: load.time_to_first_token_ms)
    draw_latency(svg, INTER_TOKEN, results.loads, "Time between tokens", lambda load: load.inter_token_ms)
    if results.waterfall is not None and (single := results.single_stream_load) is not None:
        draw_waterfall(svg, WATERFALL, results.waterfall, single.hops)
    return svg.to_string()


def figures(results: Results) -> Iterator[tuple[str, str]]:
    """Yield at most five figures and what each means."""
    single = results.single_stream
    if single is not None:
        yield f"{single.grpc_tokens_per_s:.1f}", "tokens/s, single stream"
        yield f"{single.grpc_share:.0%}", "of the engine's own speed"
    if results.share_of_peak is not None:
        yield f"{results.share_of_peak:.0%}", f"of {results.peak_gb_per_s:.1f} GB/s read"
    best = max(results.loads, key=lambda load: load.tokens_per_s)
    yield f"{best.tokens_per_s:.1f}", f"tokens/s, {best.load}"
    if results.comparison is not None:
        yield f"{results.comparison.ratio.median:.2f}x", "the compared program"
