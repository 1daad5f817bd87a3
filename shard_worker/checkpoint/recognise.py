"""Which format is a foreign model in? Told by what is in the folder or file, and opened as that."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE
from shard_worker.checkpoint.from_gguf import open_gguf
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.from_llama2c import open_llama2c
from shard_worker.checkpoint.from_meta import consolidated_shards, open_meta
from shard_worker.checkpoint.huggingface_weights import INDEX_FILE, PICKLED_FILE, PICKLED_INDEX_FILE, WEIGHTS_FILE
from shard_worker.checkpoint.llama2c_file import is_llama2c
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.torch_file import Unpickle

GPT_FAST_FILE = "model.pth"
GGUF_MAGIC = b"GGUF"
ZIP_MAGIC = b"PK\x03\x04"
SAFETENSORS_START_BYTES = 9

Format = Literal["gguf", "safetensors", "pickled", "meta", "gpt-fast", "llama2.c"]
DESCRIPTIONS: dict[Format, str] = {
    "gguf": "a GGUF file",
    "safetensors": "a Hugging Face folder with safetensors",
    "pickled": f"a Hugging Face folder with {PICKLED_FILE}",
    "meta": "Meta's consolidated shards",
    "gpt-fast": "one file of weights in gpt-fast's layout",
    "llama2.c": "a model file of llama2.c",
}


@dataclass(frozen=True)
class Found:
    """A format, and the files that decide: weights, or the folder they are in."""

    format: Format
    paths: tuple[Path, ...]

    @property
    def description(self) -> str:
        """What was found, for people."""
        several = f" ({len(self.paths)} files)" if len(self.paths) > 1 else ""
        return DESCRIPTIONS[self.format] + several


def recognise(source: Path) -> Found:
    """Return what `source`, a file or folder, is. Raises CheckpointError when it is nothing that can be converted.

    In a folder with several, the order is: safetensors, pytorch_model.bin, Meta's shards, gpt-fast's model.pth.
    """
    try:
        return _of_folder(source) if source.is_dir() else _of_file(source)
    except OSError as error:
        raise CheckpointError(f"{source}: {error.strerror or error}") from error


def open_found(found: Found, unpickle: Unpickle, config: Path | None, context_length: int | None) -> ForeignModel:
    """Return the model. `config` and `context_length` are for weights that come without them, as for `open_meta`.

    Raises CheckpointError as the format's own function does, and for flags that the format has no use for.
    """
    if found.format in ("meta", "gpt-fast"):
        return open_meta(found.paths, unpickle, config, context_length)
    if config is not None or context_length is not None:
        raise CheckpointError(f"--config and --context-length are not for {found.description}, which says both itself")
    [path] = found.paths
    match found.format:
        case "gguf":
            return open_gguf(path)
        case "llama2.c":
            return open_llama2c(path)
        case _:
            return open_huggingface(path, unpickle=unpickle)


def _of_folder(folder: Path) -> Found:
    if (folder / MANIFEST_FILE).is_file():
        raise CheckpointError(f"{folder} is a checkpoint of ours already")
    if any((folder / name).is_file() for name in (WEIGHTS_FILE, INDEX_FILE)):
        return Found("safetensors", (folder,))
    if any((folder / name).is_file() for name in (PICKLED_FILE, PICKLED_INDEX_FILE)):
        return Found("pickled", (folder,))
    if shards := consolidated_shards(folder):
        return Found("meta", tuple(shards))
    if (folder / GPT_FAST_FILE).is_file():
        return Found("gpt-fast", (folder / GPT_FAST_FILE,))
    raise CheckpointError(
        f"{folder}: there are no weights: none of {WEIGHTS_FILE}, {INDEX_FILE}, {PICKLED_FILE}, {PICKLED_INDEX_FILE}, "
        f"consolidated.00.pth, {GPT_FAST_FILE}"
    )


def _of_file(path: Path) -> Found:
    with path.open("rb") as file:
        start = file.read(SAFETENSORS_START_BYTES)
    if start.startswith(GGUF_MAGIC):
        return Found("gguf", (path,))
    if start.startswith(ZIP_MAGIC):
        return Found("gpt-fast", (path,))
    if is_llama2c(path):
        return Found("llama2.c", (path,))
    if start[SAFETENSORS_START_BYTES - 1 :] == b"{":  # after the header's length comes the header, in JSON
        raise CheckpointError(f"{path} holds weights alone: convert its folder, where config.json and a tokenizer are")
    raise CheckpointError(
        f"{path} is nothing that can be converted: it does not start with GGUF, is no archive of torch.save, and as "
        "a file of llama2.c its size would not fit its header"
    )
