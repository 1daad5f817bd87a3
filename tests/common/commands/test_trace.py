"""`tandem trace`: what is drawn, within the terminal's width, with and without colours."""

import re
import subprocess
import sys

import pytest

from common.commands.trace_picture import EIGHTHS, PLAIN, Style, draw
from tandem.v1 import inference_service_pb2 as pb
from tests.common.conftest import FakeGatewayProcess

MS = 1_000_000
ROW = re.compile(r" *(?P<name>\S.*?) +(?P<ms>[\d.]+) ms +(?P<share>\d+)%  (?P<bar>.*)")


def answer(**timings: int) -> pb.GenerateFinished:
    """Return an answer of 11 tokens in 10 steps by two ranks, with drafts."""
    times = {
        "tokenize_ns": 5 * MS,
        "queue_ns": 15 * MS,
        "prefill_ns": 80 * MS,
        "decode_ns": 300 * MS,
        "time_to_first_token_ns": 100 * MS,
        "total_ns": 400 * MS,
        "steps": 10,
    }
    ranks = [
        pb.RankTimings(queue_ns=10 * MS, compute_ns=200 * MS, collective_ns=20 * MS, encode_ns=MS, ahead_ns=40 * MS),
        pb.RankTimings(queue_ns=10 * MS, compute_ns=150 * MS, collective_ns=30 * MS, encode_ns=MS),
    ]
    return pb.GenerateFinished(
        reason=pb.FINISH_REASON_LENGTH,
        usage=pb.Usage(prompt_tokens=7, completion_tokens=11),
        timings=pb.Timings(
            hops=pb.StepTimings(plan_ns=3 * MS, round_trip_ns=211 * MS, wire_ns=20 * MS, decide_ns=6 * MS),
            ranks=ranks,
            **(times | timings),
        ),
        speculation=pb.SpeculationReport(rounds=4, drafted=8, accepted=6, tokens_per_pass=1.5, draft_wait_ns=50 * MS),
    )


def rows(lines: list[str]) -> list[tuple[str, float, int, str]]:
    found = [match for line in lines if (match := ROW.fullmatch(line))]
    return [(row["name"], float(row["ms"]), int(row["share"]), row["bar"]) for row in found]


def test_every_part_is_drawn_with_its_time() -> None:
    lines = list(draw(answer(), 410 * MS, Style()))
    assert [row[:3] for row in rows(lines)] == [
        ("tokenize", 5.0, 1),
        ("queue", 15.0, 4),
        ("prefill", 80.0, 20),
        ("decode", 300.0, 73),
        ("network", 10.0, 2),
        # The slowest rank's are 231 ms, of which 40 were run ahead.
        ("draft wait", 5.0, 13),
        ("plan", 0.3, 1),
        ("wire", 2.0, 5),
        ("rank queue", 1.1, 3),
        ("compute", 16.0, 42),
        ("collective", 2.0, 5),
        ("decide", 0.6, 2),
        ("other", 11.0, 29),
        ("run ahead", 4.0, 11),
        ("rank 0", 20.0, 91),
        ("collective", 2.0, 9),
        ("rank 1", 15.0, 68),
        ("collective", 3.0, 14),
    ]
    assert lines[0] == "7 prompt tokens, 11 generated, ended by length"
    assert "first token after 100.00 ms; then 33.3 tokens/s" in lines
    assert lines[-1].startswith("drafts: 6 of 8 tokens accepted (75%) in 4 rounds")


def test_the_parts_of_a_step_take_all_of_it() -> None:
    lines = list(draw(answer(), 410 * MS, Style()))
    step = [ms for name, ms, _, _ in rows(lines)[5:13]]
    assert sum(step) == pytest.approx(38.0)


@pytest.mark.parametrize("columns", [72, 80, 120])
@pytest.mark.parametrize("has_blocks", [True, False])
def test_it_fits_the_terminal_and_each_bar_begins_where_the_last_ended(columns: int, has_blocks: bool) -> None:
    lines = list(draw(answer(), 410 * MS, Style(columns=columns, has_blocks=has_blocks)))
    assert all(len(line) <= columns for line in lines)
    assert has_blocks or "\n".join(lines).isascii()
    end = 0
    for _, _, _, bar in rows(lines)[:5]:
        indent = len(bar) - len(bar.lstrip())
        assert abs(indent - end) <= 1 and bar.strip()
        end = len(bar)
    assert set("".join(bar for *_, bar in rows(lines))) <= set(EIGHTHS if has_blocks else "#| ")


def test_colours_change_nothing_else() -> None:
    plain = list(draw(answer(), 410 * MS, Style()))
    coloured = list(draw(answer(), 410 * MS, Style(has_colours=True)))
    assert "\x1b" not in "".join(plain) and PLAIN in "".join(coloured)
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == plain


def test_an_answer_without_steps_or_times_is_drawn_too() -> None:
    lines = list(draw(pb.GenerateFinished(reason=pb.FINISH_REASON_LENGTH), 0, Style()))
    assert lines == ["0 prompt tokens, 0 generated, ended by length", "", "the whole answer: 0.00 ms", "", lines[-1]]
    assert list(draw(pb.GenerateFinished(timings=pb.Timings(steps=1)), 1, Style()))


def test_the_command_draws_what_a_gateway_told(gateway: FakeGatewayProcess) -> None:
    command_line = [sys.executable, "-m", "common.cli.main", "trace", "hello", "--address", gateway.address]
    done = subprocess.run(command_line, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "first token after 40.00 ms; then 4.0 tokens/s" in done.stdout
    assert "rank 0" in done.stdout and "You said" not in done.stdout and "\x1b" not in done.stdout
