"""Fetching a model into the store: by a known name, from a repository of the Hugging Face hub, or from a local path."""

from pathlib import Path

from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, model_folder
from shard_worker.checkpoint.embedded import fetch_embedded
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import Progress
from shard_worker.checkpoint.recognise import open_found, recognise
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.torch_file import Unpickler
from shard_worker.checkpoint.wanted import wanted
from shard_worker.checkpoint.weight_shapes import Dtype
from shard_worker.checkpoint.writer import write_checkpoint

ALLOWED_FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.jinja"]
# Asked for where a repository has nothing else; read by the same throw-away process as everywhere.
PICKLED_FILES = ["pytorch_model*.bin"]
STORE_DTYPE: Dtype = "bfloat16"
MAX_REASON_CHARACTERS = 300


def fetch(name_or_path: str, progress: Progress, replace: bool = False) -> Path:
    """Return the store's folder of a model, making it first when it is not there or is to be replaced.

    `name_or_path` is what `wanted` understands. Two processes that fetch the same model wait for each other. Raises
    CheckpointError when it cannot be had or is not a model we can serve.
    """
    meant = wanted(name_or_path)
    folder = model_folder(meant.name)
    with OutputFolder(folder) as output:
        if output.exists and not replace:
            return folder
        if meant.path is not None:
            model = open_found(recognise(meant.path), Unpickler(output.scratch, progress), None, None)
        elif meant.repository is not None:
            model = _fetch_repository(meant.repository, Unpickler(output.scratch, progress))
        elif meant.name == EMBEDDED_MODEL:
            model = fetch_embedded(output.scratch)
        else:
            raise CheckpointError(f"{meant.name} was made here: there is nothing to fetch it from")
        write_checkpoint(model, output, meant.name, STORE_DTYPE, progress)
    return folder


def _fetch_repository(repo: str, unpickle: Unpickler) -> ForeignModel:
    from huggingface_hub import snapshot_download  # slow to import, and not needed for the embedded model

    try:
        # The hub's own cache keeps what was fetched, so that an interrupted download goes on where it was.
        snapshot = Path(snapshot_download(repo, allow_patterns=ALLOWED_FILES, ignore_patterns=["*/*"]))
        if not any(snapshot.glob("*.safetensors")):
            snapshot = Path(snapshot_download(repo, allow_patterns=PICKLED_FILES, ignore_patterns=["*/*"]))
    except Exception as error:  # the errors of its HTTP library, which is another one in each major version
        reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS] or type(error).__name__
        raise CheckpointError(f"could not download {repo} from the Hugging Face hub: {reason}") from error
    return open_huggingface(snapshot, source=f"{repo}@{snapshot.name}", unpickle=unpickle)
