"""What all commands share that make a checkpoint: the flags, and the place that is not overwritten by accident."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from common.errors import CheckpointError
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.commands.progress import ProgressBars

output_option = click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="bfloat16",
    show_default=True,
    help="Type in which the weights are stored; norm weights are always float32.",
)
chat_template_option = click.option(
    "--chat-template",
    help="For a chat model that comes without one: a file, or one of ours: llama-2, llama-3, codellama, mistral-v1, "
    "mistral-v3, mistral-v3-tekken, mistral-v7, mistral-v7-tekken.",
)
force_option = click.option("--force", is_flag=True, help="Replace a checkpoint that is there.")


@contextmanager
def ended_as_by_ctrl_c() -> Iterator[None]:
    """Have SIGTERM, and SIGHUP of a closed terminal, end this block as Ctrl-C does: what is half made is taken away."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ours = [kind for kind in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) == signal.SIG_DFL]
    for kind in ours:
        signal.signal(kind, interrupt)
    try:
        yield
    finally:
        for kind in ours:
            signal.signal(kind, signal.SIG_DFL)


@contextmanager
def new_checkpoint(folder: Path, force: bool) -> Iterator[tuple[OutputFolder, ProgressBars]]:
    """Lock the place of a new checkpoint; yields it, and the bars that show how the work goes.

    Raises CheckpointError when `folder` is a checkpoint already and not to be replaced, or cannot be one.
    """
    with ended_as_by_ctrl_c(), OutputFolder(folder) as place, ProgressBars() as progress:
        if place.exists and not force:
            raise CheckpointError(f"there is a checkpoint in {folder} already; --force replaces it")
        yield place, progress
