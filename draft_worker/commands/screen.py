"""`tandem screen-draft`: a draft that reads a small part of its head for each token, with hardly another result."""

from pathlib import Path

import click

from common.model_store import resolve
from shard_worker.commands.progress import ProgressBars


@click.command("screen-draft")
@click.argument("draft")
@click.option(
    "--rank",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Rank of the rough look at all tokens; a multiple of 32.",
)
@click.option(
    "--panels",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="How many panels of 16 tokens are then looked at exactly.",
)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--if-missing", is_flag=True, help="Do nothing where DRAFT has a screen already.")
def screen_draft(draft: str, rank: int, panels: int, threads: int | None, if_missing: bool) -> None:
    """Make a screen for DRAFT's head and store it with DRAFT, whose draft workers on CPUs then use it.

    DRAFT is a name in the store or the folder of a checkpoint: quantise first, screen then. The screen is made on texts
    that DRAFT writes itself. A worker that drafts for few requests at once then takes a rough look at all tokens, and
    reads the head where that shows the best. Where the best was not found, another token is proposed: this changes
    speed, never a token that the target draws.
    """
    folder = resolve(draft)
    # Imported here since they bring torch, which `--help` does without.
    import torch

    from draft_worker.screen import Options, make_screen
    from draft_worker.screen_file import SCREEN_FILE, write_screen

    path: Path = folder / SCREEN_FILE
    if if_missing and path.exists():
        click.echo(f"{draft} has a screen already: {path}")
        return
    if threads is not None:
        torch.set_num_threads(threads)
    with ProgressBars() as progress:
        made = make_screen(folder, Options(rank, panels, threads=threads), progress)
    click.echo(f"of the draft's own best tokens it finds {100 * made.found:.1f} %")
    click.echo(f"stored: {write_screen(folder, made.screen, made.checkpoint_hash)}")
