"""Shapes and text as SVG, in colours that follow the reader's light or dark setting."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

# Two colours each: on white, and on black. The series are told apart by lightness too, for those who see no hue.
INK = ("#1b1f24", "#e6edf3")
COLORS = {
    "ink": INK,
    "muted": ("#59636e", "#9198a1"),
    "rule": ("#d1d9e0", "#2b3138"),
    "panel": ("#ffffff", "#0d1117"),
    "a": ("#1f5fbf", "#6cb0ff"),
    "b": ("#c2570c", "#ffab70"),
    "c": ("#1a7f37", "#56d364"),
    "d": ("#8250df", "#d2a8ff"),
    "e": ("#bf3989", "#f778ba"),
    "f": ("#0f7c85", "#39c5cf"),
    "g": ("#8c959f", "#6e7681"),
}


class Box(NamedTuple):
    """A rectangle of the picture, px from its upper left corner."""

    x: float
    y: float
    width: float
    height: float


class Svg:
    """A picture that grows by one shape a call. Colours are keys of COLORS."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._box = Box(0, 0, width, height)
        self._title = title
        self._shapes: list[str] = []

    def rectangle(self, box: Box, color: str, hint: str = "") -> None:
        """Fill `box`; `hint` is shown where the pointer rests on it."""
        x, y, width, height = (_number(value) for value in box)
        self._add("rect", {"class": f"fill-{color}", "x": x, "y": y, "width": width, "height": height}, hint)

    def line(self, points: Sequence[tuple[float, float]], color: str, width: float = 1, dashes: str = "") -> None:
        """Draw a line through `points`."""
        path = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        style = {"class": f"line-{color}", "points": path, "stroke-width": _number(width)}
        self._add("polyline", style | ({"stroke-dasharray": dashes} if dashes else {}))

    def dot(self, x: float, y: float, color: str, square: bool = False, hint: str = "") -> None:
        """Mark a point."""
        if square:
            self.rectangle(Box(x - 4, y - 4, 8, 8), color, hint)
        else:
            self._add("circle", {"class": f"fill-{color}", "cx": _number(x), "cy": _number(y), "r": "4.5"}, hint)

    def text(
        self, x: float, y: float, text: str, size: float = 12, color: str = "ink", anchor: str = "start",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """Write `text` with its baseline at `y`; `anchor` is start, middle or end."""
        style = {
            "class": f"fill-{color}",
            "x": _number(x),
            "y": _number(y),
            "font-size": _number(size),
            "text-anchor": anchor,
        }
        self._shapes.append(_element("text", style | ({"font-weight": "600"} if bold else {}), escape(text)))

    def to_string(self) -> str:
        """Return the whole file."""
        _, _, width, height = (_number(value) for value in self._box)
        head = {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": width,
            "height": height,
            "role": "img",
            "font-family": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
        }
        background = _element("rect", {"class": "fill-panel", "width": width, "height": height})
        content = [_element("title", {}, escape(self._title)), _style(), background, *self._shapes]
        return _element("svg", head, "\n" + "\n".join(content) + "\n")

    def _add(self, name: str, attributes: Mapping[str, str], hint: str = "") -> None:
        self._shapes.append(_element(name, attributes, _element("title", {}, escape(hint)) if hint else ""))


def _style() -> str:
    light, dark = ("\n".join(_rules(name, colors[i]) for name, colors in COLORS.items()) for i in (0, 1))
    return _element("style", {}, f"\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n")


def _rules(name: str, color: str) -> str:
    return f".fill-{name} {{ fill: {color} }} .line-{name} {{ stroke: {color}; fill: none }}"


def _element(name: str, attributes: Mapping[str, str], content: str = "") -> str:
    words = "".join(f' {key}="{escape(value)}"' for key, value in attributes.items())
    return f"<{name}{words}>{content}</{name}>" if content else f"<{name}{words}/>"


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
