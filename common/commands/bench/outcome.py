"""From the flags of `tandem bench` to its terminal report and its files."""

import asyncio
import re
import shlex
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from common.commands.bench.compare import KNOWN_PATTERNS, Pattern
from common.commands.bench.load import Lengths
from common.commands.bench.measure import Plan, loads
from common.commands.bench.picture.report import report_svg
from common.commands.bench.results import read_roofline
from common.commands.bench.run import Gateway, run
from common.commands.bench.table import table_lines
from common.commands.gateway_address import read_gateway
from common.process import set_up_logging
from common.supervisor import ChildEnded, Stopped

T = TypeVar("T")

ONLY_OF_OWN = ("tp", "dtype", "threads", "gateway", "shard")


def bench_and_show(flags: Mapping[str, Any]) -> int:
    """Measure what the flags ask for, print it and write the files; return the exit code.

    Raises click.ClickException when a gateway, a child or the compared command fails, or a file cannot be written.
    """
    set_up_logging("bench", flags["log_level"])
    earlier = [point for path in flags["beside"] for point in read_roofline(path)]
    plan = plan_of(flags)
    gateway = gateway_of(flags)
    results = run_to_end(run(gateway, plan, flags["peak_gb_s"]))
    for line in table_lines(results):
        click.echo(line)
    for path, text in (
        (flags["json_file"], results.to_json),
        (flags["svg_file"], lambda: report_svg(results, earlier)),
    ):
        if path is not None:
            write_text(path, text())
    return 0


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. Raises click.ClickException where a child ended, click.Abort on a signal."""
    try:
        return asyncio.run(work)
    except Stopped:
        raise click.Abort from None
    except ChildEnded as error:
        raise click.ClickException(str(error)) from None


def write_text(path: Path, text: str) -> None:
    """Write `text` as a file's lines. Raises click.ClickException where that is not possible."""
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror or error}") from None


def gateway_of(flags: Mapping[str, Any], only_of_own: Sequence[str] = ONLY_OF_OWN) -> Gateway:
    """Return which gateway to measure.

    Raises click.UsageError on flags, those named `only_of_own`, that a running one cannot follow any more.
    """
    late = [f"--{name.replace('_', '-')}" for name in only_of_own if flags[name]]
    if flags["address"] is not None and late:
        raise click.UsageError(f"{', '.join(late)}: the gateway at {flags['address']} is running already")
    running = read_gateway(flags["address"], flags) if flags["address"] is not None else None
    return Gateway(running, {name: flags[name] for name in (*only_of_own, "model", "device")})


def plan_of(flags: Mapping[str, Any]) -> Plan:
    """Return what the flags ask for. Raises click.UsageError where they make no sense together."""
    chosen = loads(flags["concurrency"], flags["rate"])
    if not chosen:
        raise click.UsageError("nothing to measure: both --concurrency and --rate are empty")
    return Plan(
        loads=chosen,
        prompt_tokens=Lengths(*flags["prompt_tokens"]),
        output_tokens=Lengths(*flags["output_tokens"]),
        temperature=flags["temperature"],
        warm_up_requests=flags["warm_up"],
        requests=flags["requests"],
        seconds_s=flags["seconds"],
        seed=flags["seed"],
        salt=str(time.time_ns()),
        compare_command=_words(flags["compare"]) if flags["compare"] is not None else None,
        compare_patterns=_patterns(flags["compare_pattern"], flags),
        compare_pairs=flags["compare_pairs"],
        compare_timeout_s=flags["compare_timeout"],
    )


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise click.UsageError(f"--compare: {error}") from None
    if not words:
        raise click.UsageError("--compare: no command given")
    return words


def _patterns(regex: str | None, flags: Mapping[str, Any]) -> tuple[Pattern, ...]:
    if regex is None:
        return KNOWN_PATTERNS
    try:
        compiled = re.compile(regex)
    except re.error as error:
        raise click.UsageError(f"--compare-pattern: {error}") from None
    if compiled.groups < 1:
        raise click.UsageError("--compare-pattern needs a group around the figure: ([0-9.]+) tokens/s")
    return (Pattern(compiled, flags["compare_metric"]),)
