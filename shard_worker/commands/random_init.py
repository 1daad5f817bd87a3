"""`tandem random-init`: a checkpoint of a known shape with random weights, for measuring speed."""

from pathlib import Path
from typing import Literal

import click

from shard_worker.commands.new_checkpoint import dtype_option, force_option, new_checkpoint, output_option


@click.command("random-init")
@click.argument("shape")
@output_option
@click.option("--name", help="The model's name in its manifest.  [default: the shape's, with -random]")
@dtype_option
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Same seed, same bits.")
@force_option
def random_init(
    shape: str, output: Path, name: str | None, dtype: Literal["float32", "bfloat16"], seed: int, force: bool
) -> None:
    """Make a checkpoint of SHAPE with random weights. Its speed is a real model's; its text means nothing.

    SHAPE is tiny, stories15m, smollm2-135m, llama-2-7b or llama-3.1-8b.
    """
    # Imported here since they bring torch, which `--help` does without.
    from shard_worker.checkpoint.random_model import random_model
    from shard_worker.checkpoint.writer import write_checkpoint

    name = name or f"{shape}-random"
    model = random_model(shape, seed)
    with new_checkpoint(output, force) as (place, progress):
        write_checkpoint(model, place, name, dtype, progress)
    click.echo(f"{name} is ready: {place.path}")
