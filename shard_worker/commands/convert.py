"""`tandem convert`: turn a GGUF file or a folder of the Hugging Face hub's layout into a checkpoint."""

from pathlib import Path
from typing import Literal

import click

from shard_worker.commands.new_checkpoint import dtype_option, force_option, new_checkpoint, output_option


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@output_option
@click.option("--name", help="The model's name in its manifest.  [default: the output folder's name]")
@dtype_option
@force_option
def convert(source: Path, output: Path, name: str | None, dtype: Literal["float32", "bfloat16"], force: bool) -> None:
    """Make a checkpoint of SOURCE: a GGUF file, or a folder with config.json and safetensors."""
    # Imported here since they bring torch, which `--help` does without.
    from shard_worker.checkpoint.from_gguf import open_gguf
    from shard_worker.checkpoint.from_huggingface import open_huggingface
    from shard_worker.checkpoint.writer import write_checkpoint

    with new_checkpoint(output, force) as (place, progress):
        model = open_huggingface(source) if source.is_dir() else open_gguf(source)
        write_checkpoint(model, place, name or place.path.name, dtype, progress)
    click.echo(f"{name or place.path.name} is ready: {place.path}")
