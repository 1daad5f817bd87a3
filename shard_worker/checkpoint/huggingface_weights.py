"""Which files of a hub folder hold its tensors? Safetensors, or pickles that are made safetensors first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_config import read_json
from shard_worker.checkpoint.safetensors_header import StoredTensor, read_header
from shard_worker.checkpoint.torch_file import Unpickle

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLED_FILE = "pytorch_model.bin"
PICKLED_INDEX_FILE = "pytorch_model.bin.index.json"

Stored = dict[str, StoredTensor]


def stored_tensors(folder: Path, unpickle: Unpickle | None) -> Stored:
    """Return the tensors of model.safetensors, or of the files its index names; else of their pickled forerunners.

    Raises CheckpointError where there are none, where index and files do not agree, and for pickles without `unpickle`.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return read_header(folder / WEIGHTS_FILE)
    if (weight_map := _weight_map(folder / INDEX_FILE)) is not None:
        return _indexed_tensors(folder, INDEX_FILE, weight_map, ".safetensors", read_header)
    pickled_map = _weight_map(folder / PICKLED_INDEX_FILE)
    pickled = pickled_map is not None or (folder / PICKLED_FILE).is_file()
    if not pickled or unpickle is None:
        advice = f"; `tandem convert` reads {PICKLED_FILE}" if pickled else ""
        raise CheckpointError(f"{folder}: there is neither {WEIGHTS_FILE} nor {INDEX_FILE} with a weight_map{advice}")
    if (folder / PICKLED_FILE).is_file():
        return read_header(unpickle(folder / PICKLED_FILE))
    return _indexed_tensors(folder, PICKLED_INDEX_FILE, pickled_map or {}, ".bin", lambda p: read_header(unpickle(p)))


def _weight_map(index: Path) -> dict[str, Any] | None:
    """Return which file holds which tensor, None where nothing says so."""
    weight_map = (read_json(index) or {}).get("weight_map")
    return weight_map if isinstance(weight_map, dict) else None


def _indexed_tensors(
    folder: Path, index_file: str, weight_map: dict[str, Any], suffix: str, read: Callable[[Path], Stored]
) -> Stored:
    """Return the tensors of all files that the index names. Raises CheckpointError where it and they do not agree."""
    tensors: Stored = {}
    for file in sorted({str(file) for file in weight_map.values()}):
        # What is not printable cannot be a file's name everywhere: a zero byte, half a surrogate pair.
        if Path(file).name != file or not file.endswith(suffix) or not file.isprintable():
            raise CheckpointError(f"{folder / index_file} names {file!r}, which is not a {suffix[1:]} file beside it")
        for name, stored in read(folder / file).items():
            if weight_map.get(name) != file:
                raise CheckpointError(f"{folder / file}: the index does not place {name} there")
            tensors[name] = stored
    if missing := weight_map.keys() - tensors.keys():
        raise CheckpointError(f"{folder}: missing tensors: {', '.join(sorted(missing))}")
    return tensors
