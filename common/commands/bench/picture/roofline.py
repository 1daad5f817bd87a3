"""The roofline: how close to what the memory allows is each token?"""

from collections.abc import Sequence

from common.commands.bench.picture.axes import Plot, draw_frame, make_plot
from common.commands.bench.picture.svg import Box, Svg
from common.commands.bench.results import RooflinePoint

TITLE = "Tokens/s against the memory's ceiling"
MARGIN = 1.9
CHARACTER_PX = 6.5


def draw_roofline(
    svg: Svg, box: Box, ours: Sequence[RooflinePoint], earlier: Sequence[RooflinePoint], peak_gb_per_s: float | None
) -> None:
    """Draw each point over the bytes of weights read for a token, and the rate at which they can be read at most."""
    points = [*earlier, *ours]
    if not points:
        svg.text(box.x, box.y + 12, TITLE, 14, bold=True)
        svg.text(box.x, box.y + 40, "The checkpoint is not on this machine (--model says where it is).", 12, "muted")
        return
    sizes_mb = [point.weight_bytes_per_token / 1e6 for point in points]
    rates = [point.tokens_per_s for point in points]
    if peak_gb_per_s is not None:
        rates += [peak_gb_per_s * 1e3 / size_mb for size_mb in sizes_mb]
    plot = make_plot(
        box,
        (min(sizes_mb) / MARGIN, max(sizes_mb) * MARGIN),
        (min(rates) / MARGIN, max(rates) * MARGIN),
        logarithmic_x=True,
        logarithmic_y=True,
    )
    draw_frame(svg, box, plot, TITLE, "MB of weights read for each token", "tokens/s, all streams")
    if peak_gb_per_s is not None:
        _draw_ceiling(svg, plot, peak_gb_per_s)
    for color, group in (("g", earlier), ("a", ours)):
        for point in group:
            _draw_point(svg, plot, point, color, peak_gb_per_s)


def _draw_ceiling(svg: Svg, plot: Plot, peak_gb_per_s: float) -> None:
    """Draw tokens/s = bandwidth / bytes, a straight line on logarithmic axes, where it is within the plot."""
    left_mb = max(plot.x.low, peak_gb_per_s * 1e3 / plot.y.high)
    right_mb = min(plot.x.high, peak_gb_per_s * 1e3 / plot.y.low)
    ends = [(plot.x.place(mb), plot.y.place(peak_gb_per_s * 1e3 / mb)) for mb in (left_mb, right_mb)]
    svg.line(ends, "b", 2)
    svg.text(plot.x.stop_px, plot.y.stop_px + 12, f"ceiling: {peak_gb_per_s:.1f} GB/s read", 11, "b", "end")


def _draw_point(svg: Svg, plot: Plot, point: RooflinePoint, color: str, peak_gb_per_s: float | None) -> None:
    size_mb = point.weight_bytes_per_token / 1e6
    x, y = plot.x.place(size_mb), plot.y.place(point.tokens_per_s)
    achieved = point.weight_bytes_per_token * point.tokens_per_s / 1e9
    share = f" ({achieved / peak_gb_per_s:.0%})" if peak_gb_per_s is not None else ""
    svg.dot(x, y, color, hint=f"{point.label}: {size_mb:.1f} MB a token, {achieved:.1f} GB/s")
    label = f"{point.label}: {point.tokens_per_s:.1f}{share}"
    # To the left, away from the ceiling, where there is room.
    if x - len(label) * CHARACTER_PX > plot.x.start_px:
        svg.text(x - 9, y + 4, label, 11, "ink", "end")
    else:
        svg.text(x + 9, y + 4, label, 11)
