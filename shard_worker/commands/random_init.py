"""`tandem random-init`: a checkpoint of a known shape with random weights, for measuring speed."""

from pathlib import Path
from typing import Literal

import click

from common.errors import CheckpointError
from shard_worker.commands.progress import ProgressBars


@click.command("random-init")
@click.argument("shape")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--name", help="The model's name in its manifest.  [default: the shape's, with -random]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Type in which the weights are stored; norm weights are always float32.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Same seed, same bits.")
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def random_init(
    shape: str, output: Path, name: str | None, dtype: Literal["float32", "bfloat16"], seed: int, force: bool
) -> None:
    """Make a checkpoint of SHAPE with random weights. Its speed is a real model's; its text means nothing.

    SHAPE is tiny, stories15m, smollm2-135m, llama-2-7b or llama-3.1-8b.
    """
    # Imported here since they bring torch, which `--help` does without.
    from shard_worker.checkpoint.output_folder import OutputFolder
    from shard_worker.checkpoint.random_model import random_model
    from shard_worker.checkpoint.writer import write_checkpoint

    name = name or f"{shape}-random"
    model = random_model(shape, seed)
    with OutputFolder(output) as place, ProgressBars() as progress:
        if place.exists and not force:
            raise CheckpointError(f"there is a checkpoint in {output} already; --force replaces it")
        write_checkpoint(model, place, name, dtype, progress)
    click.echo(f"{name} is ready: {place.path}")
