"""What is fetched of a repository of the Hugging Face hub, and of which of its revisions?

The hub's own cache keeps what was fetched, so that an interrupted download goes on where it was.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import CheckpointError

ALLOWED_FILES = ["*.json", "model*.safetensors", "tokenizer.model", "*.jinja"]
# Asked for where a repository has nothing else; read by the same throw-away process as everywhere.
PICKLED_FILES = ["pytorch_model*.bin"]
MAX_REASON_CHARACTERS = 300


def fetch_snapshot(repository: str) -> Path:
    """Return a folder with the model of `repository`, all of one revision, after which the folder is named.

    Raises CheckpointError when it cannot be had.
    """
    from huggingface_hub import snapshot_download  # slow to import, and not needed for the embedded model

    with _failure_told(repository):
        snapshot = Path(snapshot_download(repository, allow_patterns=ALLOWED_FILES, ignore_patterns=["*/*"]))
        if any(snapshot.glob("*.safetensors")):
            return snapshot
        # Of the same revision: the main branch may have moved on since.
        return Path(
            snapshot_download(repository, revision=snapshot.name, allow_patterns=PICKLED_FILES, ignore_patterns=["*/*"])
        )


def fetch_file(repository: str, name: str) -> Path:
    """Return one file of `repository`, in a folder that is named after the revision.

    Raises CheckpointError when it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    with _failure_told(f"{name} of {repository}"):
        return Path(hf_hub_download(repository, name))


@contextmanager
def _failure_told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the errors of its HTTP library, which is another one in each major version
        reason = " ".join(str(error).split())[:MAX_REASON_CHARACTERS] or type(error).__name__
        raise CheckpointError(f"could not download {what} from the Hugging Face hub: {reason}") from error
