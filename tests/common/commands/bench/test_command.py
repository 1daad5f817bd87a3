"""The command line: light help, flags that are checked before anything starts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from common.cli import main
from common.commands.bench.command import bench
from common.commands.bench.load import ClosedLoop, Lengths, OpenLoop
from common.commands.bench.outcome import gateway_of, plan_of

HELP = [sys.executable, "-m", "common.cli.main", "bench", "--help"]


def test_help_imports_neither_torch_nor_grpc() -> None:
    line = [sys.executable, "-X", "importtime", *HELP[1:]]
    result = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    imported = {entry.rpartition("|")[2].strip().partition(".")[0] for entry in result.stderr.splitlines()}
    assert "click" in imported and "--compare-pattern" in result.stdout
    assert not imported & {"torch", "grpc", "numpy", "pydantic", "google", "asyncio"}


def test_help_takes_little_time() -> None:
    used_s = []
    for _ in range(3):
        process = subprocess.Popen(HELP, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        used_s.append(usage.ru_utime + usage.ru_stime)
    assert min(used_s) < 0.3  # of a processor: the clock on the wall also shows what else runs here


def flags(*arguments: str) -> dict[str, Any]:
    with bench.make_context("bench", list(arguments)) as context:
        return context.params


def test_flags_become_a_plan() -> None:
    plan = plan_of(flags("--concurrency", "4,1", "--rate", "2.5", "--prompt-tokens", "8-16", "--output-tokens", "5"))
    assert plan.loads == (ClosedLoop(1), ClosedLoop(4), OpenLoop(2.5))
    assert (plan.prompt_tokens, plan.output_tokens) == (Lengths(8, 16), Lengths(5, 5))
    assert [plan.bounds(load).requests for load in (*plan.loads, ClosedLoop(16))] == [4, 8, 32, 32]
    assert plan.compare_command is None
    fewer = plan_of(flags("--requests", "3"))
    assert [fewer.bounds(load).requests for load in (ClosedLoop(1), ClosedLoop(16), OpenLoop(1.0))] == [3, 16, 3]


def test_a_compared_command_is_split_as_a_shell_would() -> None:
    plan = plan_of(flags("--compare", "run 'a b' --c", "--compare-pattern", "x=(.*)", "--compare-metric", "whole"))
    assert plan.compare_command == ("run", "a b", "--c")
    assert [(pattern.regex.pattern, pattern.metric) for pattern in plan.compare_patterns] == [("x=(.*)", "whole")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--concurrency", ""),
        ("--concurrency", "1,0"),
        ("--concurrency", "1.5"),
        ("--rate", "fast"),
        ("--rate", "-1"),
        ("--rate", "inf"),
        ("--prompt-tokens", "0"),
        ("--prompt-tokens", "9-8"),
        ("--output-tokens", "many"),
        ("--requests", "0"),
        ("--seconds", "0"),
        ("--compare", "'open"),
        ("--compare", ""),
        ("--compare", "x", "--compare-pattern", "("),
        ("--compare", "x", "--compare-pattern", "no group"),
    ],
)
def test_flags_that_make_no_sense_are_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        plan_of(flags(*arguments))


def test_a_running_gateway_cannot_be_set() -> None:
    assert gateway_of(flags("--address", "x:1", "--model", "y")).flags["model"] == "y"
    assert gateway_of(flags("--tp", "2", "--shard", "a=b")).flags["tp"] == "2"
    with pytest.raises(click.UsageError, match="--tp, --shard: the gateway at x:1 is running already"):
        gateway_of(flags("--address", "x:1", "--tp", "2", "--shard", "a=b"))


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["bench", "--address", "127.0.0.1:1", "--peak-gb-s", "10", "--json", str(tmp_path / "x.json")]
    assert main.run(arguments) == 1
    assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()
