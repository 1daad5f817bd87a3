"""Axes: where a value lies, which values are marked, and the frame around a chart."""

import math
from dataclasses import dataclass

from common.commands.bench.picture.svg import Box, Svg

LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 44
"""Room around a chart's plot for its title and labels, px."""


@dataclass(frozen=True)
class Axis:
    """Values from `low` to `high`, drawn from `start_px` to `stop_px`, evenly or by their logarithm."""

    low: float
    high: float
    start_px: float
    stop_px: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return where `value` lies, px."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start_px + (value - low) / (high - low) * (self.stop_px - self.start_px)

    def ticks(self) -> list[float]:
        """Return round values to mark: about five, or 1, 2, 5, 10, ... (1, 10, ... if many) on a logarithmic axis."""
        if self.logarithmic:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            digits = (1, 2, 5) if self.high / self.low < 1000 else (1,)
            marks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
            return [mark for mark in marks if self.low <= mark <= self.high]
        step = round_up((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class Plot:
    """A chart's two axes."""

    x: Axis
    y: Axis


def round_up(value: float) -> float:
    """Return the next of 1, 2, 2.5, 5, 10, ... that is not below `value`, which is greater than 0."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= value * (1 - 1e-9))


def plot_area(box: Box) -> Box:
    """Return what is left of `box` for the plot itself."""
    return Box(box.x + LEFT, box.y + TOP, box.width - LEFT - RIGHT, box.height - TOP - BOTTOM)


def make_plot(
    box: Box,
    x: tuple[float, float],
    y: tuple[float, float],
    logarithmic_x: bool = False,
    logarithmic_y: bool = False,
) -> Plot:
    """Return axes that fill the chart `box` with the ranges `x` and `y`."""
    area = plot_area(box)
    return Plot(
        Axis(*x, area.x, area.x + area.width, logarithmic_x),
        Axis(*y, area.y + area.height, area.y, logarithmic_y),
    )


def draw_frame(svg: Svg, box: Box, plot: Plot, title: str, x_label: str, y_label: str) -> None:
    """Draw the title, the grid and the labels of a chart. The y label stands under the title, upright."""
    area = plot_area(box)
    bottom, right = area.y + area.height, area.x + area.width
    svg.text(box.x, box.y + 12, title, 14, bold=True)
    svg.text(box.x, box.y + 27, y_label, 11, "muted")
    for value in plot.y.ticks():
        y = plot.y.place(value)
        svg.line([(area.x, y), (right, y)], "rule")
        svg.text(area.x - 6, y + 4, f"{value:g}", 11, "muted", "end")
    for value in plot.x.ticks():
        x = plot.x.place(value)
        svg.line([(x, bottom), (x, bottom + 4)], "muted")
        svg.text(x, bottom + 17, f"{value:g}", 11, "muted", "middle")
    svg.line([(area.x, bottom), (right, bottom)], "muted")
    svg.text(right, bottom + 34, x_label, 11, "muted", "end")
