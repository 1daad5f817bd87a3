"""`tandem bench`: its flags."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from common.cli.lazy_group import LazyCommand, LazyGroup
from common.cli.log_level import log_level_option
from common.commands.bench.gateway_options import AS_UP, gateway_options
from common.commands.bench.options import integers, length_range, rates

FILE = click.Path(dir_okay=False, path_type=Path)
OLD_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SUBCOMMANDS = {
    "speculate": LazyCommand(
        "common.commands.bench.speculate.command:speculate", "Measure what drafting brings, by draft length."
    )
}


@click.group(cls=LazyGroup, table=SUBCOMMANDS, invoke_without_command=True, subcommand_metavar="[speculate [OPTIONS]]")
@gateway_options
@click.option("--model", help=f"{AS_UP}; with --address: where its checkpoint lies here, to count its bytes")
@click.option("--device", help=f"{AS_UP}; with --address: on what it runs, cpu if not given")
@click.option(
    "--concurrency", type=integers, metavar="LIST", default="1,4,16", show_default=True,
    help="closed loops: so many clients, each waiting for its answer; empty for none",
)  # fmt: skip
@click.option(
    "--rate", type=rates, metavar="LIST", default="",
    help="open loops: so many requests a second arrive at random, answered or not",
)  # fmt: skip
@click.option(
    "--prompt-tokens", type=length_range, metavar="N or N-M", default="32", show_default=True, help="length of prompts"
)
@click.option(
    "--output-tokens", type=length_range, metavar="N or N-M", default="128", show_default=True, help="length of answers"
)
@click.option("--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy")
@click.option(
    "--warm-up", type=click.IntRange(0), default=1, show_default=True,
    help="short requests that each client sends before its load",
)  # fmt: skip
@click.option("--requests", type=click.IntRange(1), help="of each load; default: 2 a client, at least 4; open: 32")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
    help="after so long a load sends nothing new",
)  # fmt: skip
@click.option("--seed", type=click.INT, default=0, show_default=True, help="same seed, same arrivals in open loops")
@click.option(
    "--peak-gb-s", type=click.FloatRange(0, min_open=True),
    help="the memory's bandwidth, instead of measuring it; needed with --device cuda for a share of it",
)  # fmt: skip
@click.option("--compare", metavar="COMMAND", help="run COMMAND and a single stream of ours in turns, A B A B")
@click.option(
    "--compare-pattern", metavar="REGEX",
    help="its first group is COMMAND's tokens/s; default: the lines of gpt-fast and of llama.cpp",
)  # fmt: skip
@click.option(
    "--compare-metric", type=click.Choice(["decode", "whole"]), default="decode", show_default=True,
    help="what --compare-pattern finds: tokens/s after the first token, or with prefill (gpt-fast)",
)  # fmt: skip
@click.option("--compare-pairs", type=click.IntRange(1), default=3, show_default=True, help="number of pairs")
@click.option(
    "--compare-timeout", type=click.FloatRange(0, min_open=True), default=900.0, show_default=True,
    help="seconds one run of COMMAND may take",
)  # fmt: skip
@click.option("--json", "json_file", type=FILE, help="write the results to this file")
@click.option("--report", "svg_file", type=FILE, help="write pictures of them to this SVG file")
@click.option("--beside", type=OLD_FILE, multiple=True, help="an earlier --json file, for the roofline; repeatable")
@log_level_option("warning")
@click.pass_context
def bench(ctx: click.Context, /, **flags: Any) -> int:
    """Measure the speed of a gateway through its public API.

    Prompts are random token ids; answers have exactly the length that was asked for. Without --address, a gateway and
    its ranks are started on a free port first.
    """
    if ctx.invoked_subcommand is not None:
        ours = [name for name in flags if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if ours:
            raise click.UsageError(f"{ctx.invoked_subcommand} takes its own flags, after its name", ctx)
        return 0
    # Imported here since they bring grpc, which `--help` does without.
    from common.commands.bench.outcome import bench_and_show

    return bench_and_show(flags)
