"""One request's waterfall: the whole, what came before the first token, and what one step is made of."""

from collections.abc import Sequence
from typing import NamedTuple

from common.commands.bench.hops import Hops
from common.commands.bench.picture.svg import Box, Svg
from common.commands.bench.results import Waterfall

BAR_HEIGHT = 26
LEGEND_ENTRY_WIDTH = 145
LEGEND_LINE = 18
TITLE = "Where one request's time goes"


class Part(NamedTuple):
    """A stretch of time and its colour."""

    name: str
    duration_ms: float
    color: str


def draw_waterfall(svg: Svg, box: Box, request: Waterfall, hops: Hops) -> None:
    """Draw three bars, each with a scale of its own."""
    svg.text(box.x, box.y + 12, TITLE, 14, bold=True)
    half = (box.width - 32) / 2
    top, below = box.y + 28, box.y + 122
    _draw_bar(svg, Box(box.x, top, box.width, BAR_HEIGHT), "the whole request", whole_parts(request))
    _draw_bar(svg, Box(box.x, below, half, BAR_HEIGHT), "until the first token", first_token_parts(request))
    _draw_bar(svg, Box(box.x + half + 32, below, half, BAR_HEIGHT), "a mean step", step_parts(hops))


def whole_parts(request: Waterfall) -> list[Part]:
    """Return the phases of the request; the client's time beyond the server's is the way there and back."""
    phases = [*_until_first_token(request), Part("decode", request.decode_ms, "c")]
    return _with_rest(phases, request.client_total_ms)


def first_token_parts(request: Waterfall) -> list[Part]:
    """Return the phases before the first token."""
    return _with_rest(_until_first_token(request), request.client_first_token_ms)


def step_parts(hops: Hops) -> list[Part]:
    """Return the hops of a step in the order they are taken."""
    return [
        Part("plan", hops.plan_ms, "d"),
        Part("wire", hops.wire_ms, "b"),
        Part("rank queue", hops.queue_ms, "g"),
        Part("compute", hops.compute_ms, "c"),
        Part("collective", hops.collective_ms, "e"),
        Part("encode", hops.encode_ms, "f"),
        Part("decide", hops.decide_ms, "a"),
    ]


def _until_first_token(request: Waterfall) -> list[Part]:
    return [
        Part("tokenize", request.tokenize_ms, "d"),
        Part("queue", request.queue_ms, "g"),
        Part("prefill", request.prefill_ms, "a"),
    ]


def _with_rest(parts: Sequence[Part], total_ms: float) -> list[Part]:
    rest_ms = max(0.0, total_ms - sum(part.duration_ms for part in parts))
    return [*parts, Part("network, client", rest_ms, "b")]


def _draw_bar(svg: Svg, box: Box, title: str, parts: Sequence[Part]) -> None:
    total_ms = sum(part.duration_ms for part in parts)
    svg.text(box.x, box.y + 12, f"{title}: {milliseconds(total_ms)}", 12)
    x, y = box.x, box.y + 20
    columns = int(box.width / LEGEND_ENTRY_WIDTH)
    for number, part in enumerate(parts):
        width = box.width * part.duration_ms / total_ms if total_ms else 0.0
        if width > 0:
            svg.rectangle(Box(x, y, width, box.height), part.color, f"{part.name}: {milliseconds(part.duration_ms)}")
        x += width
        row, column = divmod(number, columns)
        left, base = box.x + column * LEGEND_ENTRY_WIDTH, y + box.height + 16 + row * LEGEND_LINE
        svg.rectangle(Box(left, base - 9, 9, 9), part.color)
        svg.text(left + 13, base, f"{part.name} {milliseconds(part.duration_ms)}", 11, "muted")


def milliseconds(duration_ms: float) -> str:
    """Return a duration with about three digits."""
    if duration_ms >= 1000:
        return f"{duration_ms / 1e3:.2f} s"
    return f"{duration_ms:.0f} ms" if duration_ms >= 100 else f"{duration_ms:.2f} ms"
