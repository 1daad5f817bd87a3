"""`tandem bench speculate`: its flags."""

from pathlib import Path
from typing import Any

import click

from common.cli.log_level import log_level_option
from common.commands.bench.gateway_options import AS_UP, gateway_options
from common.commands.bench.options import draft_lengths, temperatures

FILE = click.Path(dir_okay=False, path_type=Path)
OLD_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PROPOSERS = ("none", "ngram", "worker")


@click.command()
@gateway_options
@click.option("--model", help=AS_UP)
@click.option("--device", help=AS_UP)
@click.option("--draft", metavar="MODEL", help=f"{AS_UP}: the draft worker's model; without it there is no worker")
@click.option("--draft-worker", multiple=True, metavar="KEY=VALUE", help=AS_UP)
@click.option(
    "--proposer", multiple=True, type=click.Choice(PROPOSERS),
    help="who drafts; repeatable; default: all there are",
)  # fmt: skip
@click.option(
    "--lengths", type=draft_lengths, metavar="LIST", default="0-8", show_default=True,
    help="draft lengths K, tokens drafted for one pass",
)  # fmt: skip
@click.option("--temperature", type=temperatures, metavar="LIST", default="0,0.7,1.0", show_default=True)
@click.option(
    "--text", type=click.Choice(["natural", "repetitive"]), default="natural", show_default=True,
    help="whether answers are prose, or mostly repeat the prompt",
)  # fmt: skip
@click.option("--prompt-file", "prompt_files", multiple=True, type=OLD_FILE, help="a prompt of your own; repeatable")
@click.option("--max-tokens", type=click.IntRange(2), default=128, show_default=True, help="longest answer")
@click.option("--repeat", type=click.IntRange(1), default=1, show_default=True, help="rounds over all prompts")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="of the first prompt's draws")
@click.option("--json", "json_file", type=FILE, help="write all figures, acceptance by position too, to this file")
@log_level_option("warning")
def speculate(**flags: Any) -> int:
    """Measure one stream's speed by draft length, temperature and proposer, beside the formula's prediction.

    Each proposer gets a cluster of its own, which drafts exactly K tokens where it can. With --address the running
    gateway is measured with the drafts that it has; K is an upper bound there unless its draft_length is fixed.
    """
    # Imported here since they bring grpc, which `--help` does without.
    from common.commands.bench.speculate.outcome import speculate_and_show

    return speculate_and_show(flags)
