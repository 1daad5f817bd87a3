"""The stories models of llama2.c from the hub: one checkpoint of its train.py each, and the tokenizer of Llama 2.

Their repository has no tokenizer; llama2.c carries it at https://github.com/karpathy/llama2.c.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from common.errors import CheckpointError
from shard_worker.checkpoint.from_meta import open_meta
from shard_worker.checkpoint.hub import fetch_file
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.torch_file import Unpickle


@dataclass(frozen=True)
class PinnedFile:
    """A file of the hub of which every byte is known."""

    repository: str
    name: str
    num_bytes: int
    sha256: str


# The file of https://github.com/karpathy/llama2.c, from where no licence has to be accepted first.
LLAMA2_TOKENIZER = PinnedFile(
    repository="TinyLlama/TinyLlama_v1.1",
    name="tokenizer.model",
    num_bytes=499_723,
    sha256="9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347",
)


def fetch_stories(repository: str, name: str, folder: Path, unpickle: Unpickle) -> ForeignModel:
    """Return the model in the file `name` of `repository`; `folder`, which is empty, takes what is needed on the way.

    Raises CheckpointError when it or the tokenizer cannot be had, or the tokenizer is not Llama 2's.
    """
    tokenizer = fetch_file(LLAMA2_TOKENIZER.repository, LLAMA2_TOKENIZER.name)
    _check(tokenizer, name)
    shutil.copyfile(tokenizer, folder / LLAMA2_TOKENIZER.name)
    weights = fetch_file(repository, name)
    # The tokenizer is looked for beside the weights.
    (folder / name).symlink_to(weights.resolve())
    return open_meta([folder / name], unpickle, source=f"{repository}@{weights.parent.name}: {name}")


def _check(tokenizer: Path, model: str) -> None:
    wanted = LLAMA2_TOKENIZER
    if tokenizer.stat().st_size == wanted.num_bytes:
        with tokenizer.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256:
                return
    raise CheckpointError(
        f"{wanted.name} of {wanted.repository} is no longer Llama 2's ({wanted.num_bytes} bytes, SHA-256 "
        f"{wanted.sha256}): put that of https://github.com/karpathy/llama2.c beside {model}, then "
        f"`tandem convert {model} --output FOLDER`"
    )
