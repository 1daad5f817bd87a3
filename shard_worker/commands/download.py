"""`tandem download`: fetch a model into the store."""

import click

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE
from common.model_store import EMBEDDED_MODEL, model_folder
from shard_worker.checkpoint.wanted import wanted
from shard_worker.commands.new_checkpoint import chat_template_option, ended_as_by_ctrl_c
from shard_worker.commands.progress import ProgressBars


@click.command()
@click.argument("name", default=EMBEDDED_MODEL)
@click.option("--force", is_flag=True, help="Fetch it again even if it is there.")
@chat_template_option
@click.option("--verify", is_flag=True, help="If it is there already, check every file against its SHA-256.")
def download(name: str, force: bool, chat_template: str | None, verify: bool) -> None:
    """Fetch the model NAME into the store and convert it.

    NAME is smollm2-135m-instruct (the default), another name that `tandem models` lists, a repository of the Hugging
    Face hub, owner/name, with safetensors or pytorch_model.bin of a family we know, or the path of what `tandem
    convert` reads. The store is $TANDEM_HOME, by default ~/.cache/tandem.
    """
    meant = wanted(name)
    folder = model_folder(meant.name)
    present = (folder / MANIFEST_FILE).is_file() and not force
    if present and chat_template is not None:
        raise CheckpointError(f"{meant.name} is there already: {folder}; --force fetches it again, for a template")
    if present and not verify:
        click.echo(f"{meant.name} is there already: {folder}")
        return
    # Imported here since they bring torch, which the lines above do without.
    from shard_worker.checkpoint.chat_templates import chat_template as read_chat_template
    from shard_worker.checkpoint.download import fetch
    from shard_worker.checkpoint.reader import verify as verify_files

    template = None if chat_template is None else read_chat_template(chat_template)
    with ended_as_by_ctrl_c(), ProgressBars() as progress:
        if present:
            verify_files(folder, progress)
        else:
            fetch(name, progress, replace=force, chat_template=template)
    click.echo(f"{meant.name} is {'there already, and whole' if present else 'ready'}: {folder}")
