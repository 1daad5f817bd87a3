"""`tandem convert`: turn a foreign model, of whichever format, into a checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from shard_worker.commands.new_checkpoint import (
    chat_template_option,
    dtype_option,
    force_option,
    new_checkpoint,
    output_option,
)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@output_option
@click.option("--name", help="The model's name in its manifest.  [default: the output folder's name]")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="config.json or params.json of a .pth that has neither beside it.",
)
@click.option("--context-length", type=click.IntRange(min=1), help="Tokens; for a params.json, which does not say it.")
@chat_template_option
@dtype_option
@force_option
def convert(
    source: Path,
    output: Path,
    name: str | None,
    config: Path | None,
    context_length: int | None,
    chat_template: str | None,
    dtype: Literal["float32", "bfloat16"],
    force: bool,
) -> None:
    """Make a checkpoint of SOURCE.

    SOURCE is a folder of the Hugging Face hub's layout (safetensors or pytorch_model.bin), a folder with Meta's
    consolidated.*.pth and params.json, a .pth in gpt-fast's layout, a GGUF file, or a .bin or .pt of llama2.c.
    """
    # Imported here since they bring torch, which `--help` does without.
    from shard_worker.checkpoint.chat_templates import chat_template as read_chat_template
    from shard_worker.checkpoint.recognise import open_found, recognise
    from shard_worker.checkpoint.torch_file import Unpickler
    from shard_worker.checkpoint.writer import write_checkpoint

    given = None if chat_template is None else read_chat_template(chat_template)
    found = recognise(source)
    with new_checkpoint(output, force) as (place, progress):
        click.echo(f"found: {found.description}", err=True)
        model = open_found(found, Unpickler(place.scratch, progress), config, context_length)
        if given is not None:
            model = replace(model, chat_template=given)
        elif model.chat_template is None:
            click.echo("it comes without a chat template: it will not chat, unless --chat-template names one", err=True)
        write_checkpoint(model, place, name or place.path.name, dtype, progress)
    click.echo(f"{name or place.path.name} is ready: {place.path}")
