"""Comparison in pairs, with programs that only print."""

import asyncio
import re
import sys
import time
from pathlib import Path

import click
import psutil
import pytest

from common.commands.bench.compare import KNOWN_PATTERNS, Comparison, Metric, Pattern, compare, find_rate, output_of

LLAMA = """
llama_perf_context_print: prompt eval time =      49.27 ms /     5 tokens (    9.85 ms per token,   101.48 tokens per second)
llama_perf_context_print:        eval time =    2431.42 ms /   199 runs   (   12.22 ms per token,    81.84 tokens per second)
"""  # noqa: E501
LLAMA_BENCH = """
| llama 135M BF16 | 256.63 MiB | 134.52 M | CPU | 2 | pp512 | 345.20 ± 13.10 |
| llama 135M BF16 | 256.63 MiB | 134.52 M | CPU | 2 | tg200 |  66.10 ± 2.30 |
"""
GPT_FAST = """
Time for inference 1: 5.14 sec total, 40.90 tokens/sec
Bandwidth achieved: 11.00 GB/s
==========
Average tokens/sec: 38.85
Memory used: 0.00 GB
"""


@pytest.mark.parametrize(
    ("output", "rate", "metric"),
    [
        (LLAMA, 81.84, "decode"),
        (LLAMA_BENCH, 66.1, "decode"),
        (GPT_FAST, 38.85, "whole"),
        ("decode 3.1 s, 41.2 tokens/s; total 3.2 s", 41.2, "decode"),
        ("12 tok/s\n13 tok/s", 13.0, "decode"),
    ],
)
def test_the_usual_lines_are_known(output: str, rate: float, metric: Metric) -> None:
    assert find_rate(output, KNOWN_PATTERNS) == (rate, metric)


def test_an_own_pattern() -> None:
    assert find_rate("speed=7.5", (Pattern(re.compile("speed=([0-9.]+)"), "whole"),)) == (7.5, "whole")
    with pytest.raises(click.ClickException, match=r"no tokens/s found.*all is well"):
        find_rate("all is well", KNOWN_PATTERNS)


def test_ratios_are_those_of_pairs() -> None:
    ratio = Comparison("x", "decode", (10.0, 12.0, 30.0), (5.0, 4.0, 10.0)).ratio
    assert (ratio.median, ratio.least, ratio.most) == (3.0, 2.0, 3.0)


def test_both_run_in_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = f"open({str(log)!r}, 'a').write('B'); print('Average tokens/sec: 5.0')"

    async def ours() -> dict[Metric, float]:
        with log.open("a") as file:
            file.write("A")
        return {"decode": 20.0, "whole": 10.0}

    compared = asyncio.run(compare((sys.executable, "-c", program), KNOWN_PATTERNS, 3, 30.0, ours))
    assert log.read_text() == "ABABAB"
    assert (compared.ours, compared.theirs) == ((10.0,) * 3, (5.0,) * 3)  # gpt-fast's definition on both sides
    assert compared.command.startswith(sys.executable)


def test_a_program_that_fails_says_why() -> None:
    program = "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"
    with pytest.raises(click.ClickException, match="exit code 3: out of luck"):
        asyncio.run(output_of((sys.executable, "-c", program), 30.0))
    with pytest.raises(click.ClickException, match="cannot run /no/such/program"):
        asyncio.run(output_of(("/no/such/program",), 30.0))


def test_a_program_that_hangs_is_killed_with_all_it_started() -> None:
    program = "import subprocess, sys, time; subprocess.Popen(['sleep', '61.5']); time.sleep(60)"
    start_s = time.monotonic()
    with pytest.raises(click.ClickException, match="took longer than 1 s"):
        asyncio.run(output_of((sys.executable, "-c", program), 1.0))
    assert time.monotonic() - start_s < 20

    def left() -> list[psutil.Process]:
        sleeping = [process for process in psutil.process_iter(["cmdline", "status"]) if process.info["cmdline"]]
        return [process for process in sleeping if process.info["cmdline"][-1] == "61.5"]

    deadline_s = time.monotonic() + 5
    while left() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert left() == []
