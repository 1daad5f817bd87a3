"""`tandem trim-draft`: a draft that proposes frequent tokens alone, and so has less to read for each."""

from pathlib import Path

import click

from common.manifest import MANIFEST_FILE, read_manifest
from common.model_store import model_folder, resolve
from shard_worker.commands.new_checkpoint import force_option, new_checkpoint


@click.command("trim-draft")
@click.argument("draft")
@click.option(
    "--tokens",
    required=True,
    type=click.IntRange(min=1),
    help="How many tokens the draft may propose: those that end a text, and the most frequent ones.",
)
@click.option(
    "--text",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text like that which is to be drafted, whose most frequent tokens come first; those it lacks follow in "
    "the order of the tokenizer.  [default: that order alone]",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make.  [default: in the store]")
@click.option("--name", help="The new draft's name.  [default: the draft's, and the number of tokens]")
@click.option("--if-missing", is_flag=True, help="Do nothing where the checkpoint is there already.")
@force_option
def trim_draft(
    draft: str, tokens: int, text: Path | None, output: Path | None, name: str | None, if_missing: bool, force: bool
) -> None:
    """Make a copy of DRAFT whose head has rows for --tokens tokens alone.

    DRAFT is a name in the store or the folder of a checkpoint, of any format: quantise first, trim then. What comes out
    can draft and not serve. It drafts quicker, and never proposes what it lacks: measure by `tandem calibrate-draft`
    how many of its tokens the target accepts.
    """
    folder = resolve(draft)
    name = name or f"{read_manifest(folder)[0].name}-top{tokens}"
    place = output or model_folder(name)
    if if_missing and (place / MANIFEST_FILE).exists():
        click.echo(f"{name} is there already: {place}")
        return
    # Imported here since they bring torch, which `--help` does without.
    from draft_worker.trim import trim
    from shard_worker.quantization.calibration import calibration_text

    counted = None if text is None else calibration_text(text)
    with new_checkpoint(place, force) as (target, progress):
        trim(folder, target, name, tokens, counted, progress)
    click.echo(f"{name} is ready: {place}")
