"""The roofline: how close to what the memory allows is each token?"""

from collections.abc import Sequence

from common.commands.bench.picture.axes import Plot, draw_frame, make_plot
from common.commands.bench.picture.svg import Box, Svg
from common.commands.bench.results import RooflinePoint

TITLE = "Tokens/s against the memory's ceiling"
MARGIN = 1.9
CHARACTER_PX, LINE_PX, DOT_PX = 5.8, 14, 9


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
    places = [(plot.x.place(point.weight_bytes_per_token / 1e6), plot.y.place(point.tokens_per_s)) for point in points]
    taken = [Box(x - DOT_PX / 2, y - DOT_PX / 2, DOT_PX, DOT_PX) for x, y in places]
    for number, (point, (x, y)) in reversed(list(enumerate(zip(points, places, strict=True)))):
        achieved = point.weight_bytes_per_token * point.tokens_per_s / 1e9
        share = f" ({achieved / peak_gb_per_s:.0%})" if peak_gb_per_s is not None else ""
        label = f"{point.label}: {point.tokens_per_s:.1f}{share}"
        svg.dot(x, y, "g" if number < len(earlier) else "a", hint=f"{label}, {achieved:.1f} GB/s")
        _draw_label(svg, plot, x, y, label, taken)


def _draw_ceiling(svg: Svg, plot: Plot, peak_gb_per_s: float) -> None:
    """Draw tokens/s = bandwidth / bytes, a straight line on logarithmic axes, where it is within the plot."""
    left_mb = max(plot.x.low, peak_gb_per_s * 1e3 / plot.y.high)
    right_mb = min(plot.x.high, peak_gb_per_s * 1e3 / plot.y.low)
    ends = [(plot.x.place(mb), plot.y.place(peak_gb_per_s * 1e3 / mb)) for mb in (left_mb, right_mb)]
    svg.line(ends, "b", 2)
    svg.text(plot.x.stop_px, plot.y.stop_px + 12, f"ceiling: {peak_gb_per_s:.1f} GB/s read", 11, "b", "end")


def _draw_label(svg: Svg, plot: Plot, x: float, y: float, label: str, taken: list[Box]) -> None:
    """Write `label` beside its point where nothing is in the way, best to the left, away from the ceiling.

    Adds its place to `taken`. Where there is no room the label is left to the point's hint.
    """
    width = len(label) * CHARACTER_PX
    for down in (0, LINE_PX, -LINE_PX):
        for left in (x - DOT_PX - width, x + DOT_PX):
            place = Box(left, y + down - LINE_PX / 2, width, LINE_PX)
            inside = plot.x.start_px < left and left + width < plot.x.stop_px
            if inside and not any(_overlap(place, other) for other in taken):
                # Of the width we only know about how much it is: write from the end that touches the point.
                at_end = left < x
                svg.text(left + width * at_end, y + down + 4, label, 11, anchor="end" if at_end else "start")
                taken.append(place)
                return


def _overlap(a: Box, b: Box) -> bool:
    beside = a.x + a.width <= b.x or b.x + b.width <= a.x
    return not (beside or a.y + a.height <= b.y or b.y + b.height <= a.y)
