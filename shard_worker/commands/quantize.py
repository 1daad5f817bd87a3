"""`tandem quantize`: make an int8 or int4 checkpoint of one in full precision."""

from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from common.manifest import MANIFEST_FILE, read_manifest
from common.model_store import model_folder, resolve
from shard_worker.commands.new_checkpoint import force_option, new_checkpoint
from shard_worker.quantization.stated import DEFAULT_GROUP_SIZE

FLAGS_OF_MODES = {
    "group_size": ("int4", "int4-gptq"),
    "calibration": ("int4-gptq",),
    "calibration_tokens": ("int4-gptq",),
    "device": ("int4-gptq",),
}


@click.command()
@click.argument("model")
@click.option(
    "--mode",
    required=True,
    type=click.Choice(["int8", "int4", "int4-gptq"]),
    help="int8 has a scale a row; int4 a scale and a zero a group of columns; int4-gptq calibrates on text.",
)
@click.option(
    "--group-size",
    type=click.Choice(["32", "64", "128", "256"]),
    default=str(DEFAULT_GROUP_SIZE),
    show_default=True,
    help="Columns in a group of int4. Smaller groups are more exact, and larger files.",
)
@click.option(
    "--embedding",
    type=click.Choice(["int8", "none"]),
    default="int8",
    show_default=True,
    help="How the embedding and the head are stored.",
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="UTF-8 text like that which the model will see, for int4-gptq.  [default: Python's language reference]",
)
@click.option(
    "--calibration-tokens",
    type=click.IntRange(min=16),
    default=16_384,
    show_default=True,
    help="How much of the text to use; time and memory grow with it.",
)
@click.option("--device", default="cpu", show_default=True, help="torch device that int4-gptq runs on.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make.  [default: in the store]")
@click.option("--name", help="The new model's name.  [default: the model's, the mode and a group other than 32]")
@click.option("--if-missing", is_flag=True, help="Do nothing where the checkpoint is there already.")
@force_option
def quantize(
    model: str,
    mode: Literal["int8", "int4", "int4-gptq"],
    group_size: str,
    embedding: Literal["int8", "none"],
    calibration: Path | None,
    calibration_tokens: int,
    device: str,
    output: Path | None,
    name: str | None,
    if_missing: bool,
    force: bool,
) -> None:
    """Quantise MODEL, a name in the store or the folder of a checkpoint."""
    _refuse_flags_of_others(mode)
    folder = resolve(model)
    name = name or _default_name(read_manifest(folder)[0].name, mode, int(group_size))
    place = output or model_folder(name)
    if if_missing and (place / MANIFEST_FILE).exists():
        click.echo(f"{name} is there already: {place}")
        return
    # Imported here since they bring torch, which `--help` does without.
    from shard_worker.device import usable_device
    from shard_worker.quantization.quantize import QuantizeOptions
    from shard_worker.quantization.quantize import quantize as run

    options = QuantizeOptions(
        mode=mode,
        group_size=int(group_size),
        embedding=embedding,
        calibration=calibration,
        calibration_tokens=calibration_tokens,
        device=usable_device(device),
    )
    with new_checkpoint(place, force) as (target, progress):
        run(folder, target, name, options, progress)
    click.echo(f"{name} is ready: {place}")


def _refuse_flags_of_others(mode: str) -> None:
    """Raise UsageError for a flag that is given, and that this mode would do nothing with."""
    context = click.get_current_context()
    for parameter, modes in FLAGS_OF_MODES.items():
        if mode not in modes and context.get_parameter_source(parameter) != ParameterSource.DEFAULT:
            raise click.UsageError(f"--{parameter.replace('_', '-')} is of --mode {' and '.join(modes)}")


def _default_name(name: str, mode: str, group_size: int) -> str:
    grouped = mode != "int8" and group_size != DEFAULT_GROUP_SIZE
    return f"{name}-{mode}-g{group_size}" if grouped else f"{name}-{mode}"
