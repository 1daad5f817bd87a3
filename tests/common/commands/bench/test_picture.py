"""The report: well-formed, self-contained, and it says what was measured."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from common.commands.bench.picture.axes import Axis, round_up
from common.commands.bench.picture.report import report_svg
from common.commands.bench.picture.svg import COLORS
from common.commands.bench.picture.waterfall import first_token_parts, milliseconds, step_parts, whole_parts
from common.commands.bench.results import RooflinePoint
from common.commands.bench.statistics import Percentiles
from tests.common.commands.bench.synthetic import make_results

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> str:
    return "\n".join(element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def test_the_report_says_what_was_measured() -> None:
    shown = texts(report_svg(make_results(), [RooflinePoint("earlier run", 50e6, 99.9)]))
    for figure in (
        "a<b & c, bfloat16, TP 2",
        "150.0",  # tokens/s of the single stream
        "75%",  # of the engine alone
        "50%",  # 100 MB * 150/s of 30 GB/s
        "ceiling: 30.0 GB/s read",
        "bfloat16 TP 2, 1 stream: 150.0 (50%)",
        "bfloat16 TP 2, 4 streams",
        "earlier run: 99.9 (17%)",
        "2.5/s",
        "squares, dashes: open loop",
        "3.00x",
        "until the first token: 10.00 ms",
        "compute 5.00 ms",
    ):
        assert figure in shown


def test_every_mark_lies_within_the_picture() -> None:
    root = ElementTree.fromstring(report_svg(make_results()))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    dots = list(root.iter(f"{SVG}circle"))
    assert len(dots) == 2 + 2 * 2 * 2  # roofline; two loads, p50 and p99, twice
    assert all(0 < float(dot.attrib["cx"]) < width and 0 < float(dot.attrib["cy"]) < height for dot in dots)
    for bar in root.iter(f"{SVG}rect"):
        assert float(bar.get("x", "0")) + float(bar.attrib["width"]) <= width


def test_it_is_one_file_for_light_and_dark() -> None:
    svg = report_svg(make_results())
    assert "@media (prefers-color-scheme: dark)" in svg
    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in svg and "<image" not in svg
    used = set(re.findall(r'class="(?:fill|line)-(\w+)"', svg))
    assert used <= COLORS.keys()


def test_what_was_not_measured_is_left_out_or_said() -> None:
    results = make_results()
    loads = tuple(replace(load, inter_token_ms=None) for load in results.loads[1:])
    bare = replace(results, single_stream=None, waterfall=None, weight_bytes_per_step=None, peak_gb_per_s=None,
                   loads=loads)  # fmt: skip
    shown = texts(report_svg(bare))
    assert "The checkpoint is not on this machine" in shown
    assert "Not measured: answers of one token." in shown
    assert "Where one request's time goes" not in shown


def test_labels_do_not_cover_each_other() -> None:
    crowd = [RooflinePoint(f"number {i}", 50e6 + i, 100.0) for i in range(20)]
    places = [
        (element.attrib["x"], element.attrib["y"])
        for element in ElementTree.fromstring(report_svg(make_results(), crowd)).iter(f"{SVG}text")
        if (element.text or "").startswith("number")
    ]
    assert len(places) == len(set(places)) >= 2


def test_equal_times_still_make_an_axis() -> None:
    results = make_results()
    same = Percentiles(5.0, 5.0, 5.0)
    loads = tuple(replace(load, inter_token_ms=same, time_to_first_token_ms=same) for load in results.loads[:1])
    ElementTree.fromstring(report_svg(replace(results, loads=loads)))


@pytest.mark.parametrize(("value", "rounded"), [(0.3, 0.5), (1.0, 1.0), (2.1, 2.5), (37, 50), (51, 100), (1e-4, 1e-4)])
def test_round_up(value: float, rounded: float) -> None:
    assert round_up(value) == pytest.approx(rounded)


def test_axes() -> None:
    even = Axis(0, 200, 10, 110)
    assert [even.place(value) for value in (0, 100, 200)] == [10, 60, 110]
    assert even.ticks() == [0, 50, 100, 150, 200]
    log = Axis(1, 100, 0, 200, logarithmic=True)
    assert log.place(10) == pytest.approx(100)
    assert log.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert Axis(1, 1e5, 0, 1, logarithmic=True).ticks() == [1, 10, 100, 1000, 10_000, 100_000]


def test_a_waterfall_adds_up() -> None:
    results = make_results()
    assert results.waterfall is not None
    assert sum(part.duration_ms for part in whole_parts(results.waterfall)) == pytest.approx(40.0)
    assert sum(part.duration_ms for part in first_token_parts(results.waterfall)) == pytest.approx(10.0)
    assert [part.name for part in step_parts(results.loads[0].hops)] == [
        *("plan", "wire", "rank queue", "compute", "collective", "encode", "decide")
    ]


def test_durations_have_three_digits() -> None:
    assert [milliseconds(ms) for ms in (0.012, 12.3456, 123.4, 12_345)] == ["0.01 ms", "12.35 ms", "123 ms", "12.35 s"]
