"""Latency against load: what do users pay for throughput?"""

from collections.abc import Callable, Sequence

from common.commands.bench.picture.axes import draw_frame, make_plot, round_up
from common.commands.bench.picture.svg import Box, Svg
from common.commands.bench.statistics import LoadResult, Percentiles

Pick = Callable[[LoadResult], Percentiles | None]
MARGIN = 2.2
LOOPS = (("closed", False, ""), ("open", True, "4 3"))
"""Loop, whether its marks are squares, and the dashes of its lines."""


def draw_latency(svg: Svg, box: Box, loads: Sequence[LoadResult], title: str, pick: Pick) -> None:
    """Draw p50 and p99 of what `pick` takes of each load, ms, over all tokens/s; closed loops and open ones apart."""
    known = [(load, values) for load in loads if (values := pick(load)) is not None]
    if not known:
        svg.text(box.x, box.y + 12, title, 14, bold=True)
        svg.text(box.x, box.y + 40, "Not measured: answers of one token.", 12, "muted")
        return
    plot = make_plot(
        box,
        (0, round_up(1.05 * max(load.tokens_per_s for load, _ in known))),
        (min(values.p50 for _, values in known) / MARGIN, max(values.p99 for _, values in known) * MARGIN),
        logarithmic_y=True,
    )
    draw_frame(svg, box, plot, title, "tokens/s, all streams", "ms")
    for loop, square, dashes in LOOPS:
        of_loop = [(load, values) for load, values in known if load.loop == loop]
        for name, color in (("p99", "b"), ("p50", "a")):
            marks = [
                (plot.x.place(load.tokens_per_s), plot.y.place(getattr(values, name)), load) for load, values in of_loop
            ]
            svg.line([(x, y) for x, y, _ in marks], color, 1.5, dashes)
            for x, y, load in marks:
                svg.dot(x, y, color, square, f"{load.load}: {name} {getattr(pick(load), name):.1f} ms")
                # Above the closed loops, below the open ones: they often lie close together.
                if name == ("p50" if square else "p99"):
                    svg.text(x, y + (16 if square else -8), load.load, 10, "muted", "middle")
    svg.text(plot.x.stop_px - 34, box.y + 12, "p50", 11, "a", "end", bold=True)
    svg.text(plot.x.stop_px, box.y + 12, "p99", 11, "b", "end", bold=True)
    if any(load.loop == "open" for load, _ in known):
        svg.text(plot.x.stop_px, box.y + 27, "squares, dashes: open loop", 10, "muted", "end")
