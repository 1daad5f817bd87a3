"""`tandem convert`: turn a GGUF file or a folder of the Hugging Face hub's layout into a checkpoint."""

from pathlib import Path
from typing import Literal

import click

from common.errors import CheckpointError
from shard_worker.commands.progress import ProgressBars


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--name", help="The model's name in its manifest.  [default: the output folder's name]")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Type in which the weights are stored; norm weights are always float32.",
)
@click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")
def convert(source: Path, output: Path, name: str | None, dtype: Literal["float32", "bfloat16"], force: bool) -> None:
    """Make a checkpoint of SOURCE: a GGUF file, or a folder with config.json and safetensors."""
    # Imported here since they bring torch, which `--help` does without.
    from shard_worker.checkpoint.from_gguf import open_gguf
    from shard_worker.checkpoint.from_huggingface import open_huggingface
    from shard_worker.checkpoint.output_folder import OutputFolder
    from shard_worker.checkpoint.writer import write_checkpoint

    with OutputFolder(output) as place, ProgressBars() as progress:
        if place.exists and not force:
            raise CheckpointError(f"there is a checkpoint in {output} already; --force replaces it")
        model = open_huggingface(source) if source.is_dir() else open_gguf(source)
        write_checkpoint(model, place, name or place.path.name, dtype, progress)
    click.echo(f"{name or place.path.name} is ready: {place.path}")
