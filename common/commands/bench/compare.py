"""Us against another program, in pairs: A B A B, so that a machine that changes its mind hits both alike."""

import asyncio
import os
import re
import shlex
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Literal

import click

KEPT_OUTPUT_BYTES = 1 << 20
READ_BYTES = 1 << 16

Metric = Literal["decode", "whole"]
NUMBER = r"([0-9]+(?:\.[0-9]+)?)"


@dataclass(frozen=True)
class Pattern:
    """A line that a program prints: the first group is its tokens/s, whose definition `metric` is.

    "decode": tokens after the first over the time they took. "whole": new tokens over all of it, prefill included.
    """

    regex: re.Pattern[str]
    metric: Metric


KNOWN_PATTERNS = (
    # gpt-fast, generate.py
    Pattern(re.compile(rf"Average tokens/sec:\s*{NUMBER}"), "whole"),
    # llama.cpp, llama_perf_context_print; the line of the prompt looks alike
    Pattern(re.compile(rf"(?<!prompt )eval time =.*?{NUMBER} tokens per second"), "decode"),
    # llama.cpp, llama-bench's table
    Pattern(re.compile(rf"\|\s*tg\s*\d+\s*\|\s*{NUMBER}"), "decode"),
    # tandem generate --stats, and many others
    Pattern(re.compile(rf"{NUMBER}\s*tok(?:en)?s?/s"), "decode"),
)


@dataclass(frozen=True)
class Ratio:
    """Our tokens/s over theirs, of the pairs."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Comparison:
    """What each of both did in each pair, tokens/s by the other program's definition."""

    command: str
    metric: Metric
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> Ratio:
        """Median and range of the pairs' ratios."""
        ratios = [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]
        return Ratio(median(ratios), min(ratios), max(ratios))


async def compare(
    command: Sequence[str],
    patterns: tuple[Pattern, ...],
    pairs: int,
    timeout_s: float,
    ours: Callable[[], Awaitable[dict[Metric, float]]],
) -> Comparison:
    """Run us and `command` in turns, `pairs` times. `ours` measures us by both definitions.

    Raises click.ClickException when the command fails, prints no figure, or takes longer than `timeout_s`.
    """
    our_rates: list[dict[Metric, float]] = []
    their_rates: list[float] = []
    metric: Metric = "decode"
    for pair in range(pairs):
        our_rates.append(await ours())
        rate, metric = find_rate(await output_of(command, timeout_s), patterns)
        their_rates.append(rate)
        us = our_rates[-1][metric]
        click.echo(f"pair {pair + 1} of {pairs}: {us:.1f} and {rate:.1f} tokens/s, {us / rate:.2f}x", err=True)
    return Comparison(shlex.join(command), metric, tuple(rates[metric] for rates in our_rates), tuple(their_rates))


def find_rate(output: str, patterns: tuple[Pattern, ...]) -> tuple[float, Metric]:
    """Return the last figure that the first fitting pattern finds in `output`, and its definition.

    Raises click.ClickException when none fits.
    """
    for pattern in patterns:
        found = [float(match[1]) for match in pattern.regex.finditer(output)]
        if found and found[-1] > 0:
            return found[-1], pattern.metric
    tail = " / ".join(output.strip().splitlines()[-3:]) or "nothing"
    raise click.ClickException(f"no tokens/s found in what the command printed; it ended with: {tail}")


async def output_of(command: Sequence[str], timeout_s: float) -> str:
    """Run a command without a shell and return the last MiB of what it printed.

    Raises click.ClickException when it cannot be run, fails or takes longer than `timeout_s`; it is killed then.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise click.ClickException(f"cannot run {command[0]}: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(timeout_s):
            output = await _tail(process)
            code = await process.wait()
    except TimeoutError:
        raise click.ClickException(f"the command took longer than {timeout_s:g} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it may have left running
        await process.wait()
    if code:
        tail = " / ".join(output.strip().splitlines()[-3:])
        raise click.ClickException(f"the command failed with exit code {code}: {tail}")
    return output


async def _tail(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    kept = b""
    while data := await process.stdout.read(READ_BYTES):
        kept = (kept + data)[-KEPT_OUTPUT_BYTES:]
    return kept.decode(errors="replace")
