"""Fetching a model into the store: by a known name, from a repository of the Hugging Face hub, or from a local path."""

import dataclasses
from pathlib import Path

from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, model_folder
from shard_worker.checkpoint.embedded import fetch_embedded
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.hub import fetch_snapshot
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import Progress
from shard_worker.checkpoint.recognise import open_found, recognise
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.stories import fetch_stories
from shard_worker.checkpoint.torch_file import Unpickler
from shard_worker.checkpoint.wanted import Wanted, wanted
from shard_worker.checkpoint.weight_shapes import Dtype
from shard_worker.checkpoint.writer import write_checkpoint

STORE_DTYPE: Dtype = "bfloat16"


def fetch(name_or_path: str, progress: Progress, replace: bool = False, chat_template: str | None = None) -> Path:
    """Return the store's folder of a model, making it first when it is not there or is to be replaced.

    `name_or_path` is what `wanted` understands; `chat_template`, a template's text, counts before the model's own. Two
    processes that fetch the same model wait for each other. Raises CheckpointError when it cannot be had or is not a
    model we can serve.
    """
    meant = wanted(name_or_path)
    folder = model_folder(meant.name)
    with OutputFolder(folder) as output:
        if output.exists and not replace:
            return folder
        model = _open(meant, output.scratch, Unpickler(output.scratch, progress))
        if chat_template is not None:
            model = dataclasses.replace(model, chat_template=chat_template)
        write_checkpoint(model, output, meant.name, STORE_DTYPE, progress)
    return folder


def _open(meant: Wanted, scratch: Path, unpickle: Unpickler) -> ForeignModel:
    if meant.path is not None:
        return open_found(recognise(meant.path), unpickle, None, None)
    if meant.repository is not None and meant.file is not None:
        return fetch_stories(meant.repository, meant.file, scratch, unpickle)
    if meant.repository is not None:
        snapshot = fetch_snapshot(meant.repository)
        return open_huggingface(snapshot, source=f"{meant.repository}@{snapshot.name}", unpickle=unpickle)
    if meant.name == EMBEDDED_MODEL:
        return fetch_embedded(scratch)
    raise CheckpointError(f"{meant.name} was made here: there is nothing to fetch it from")
