"""How many bytes of weights does a decode step read? Counted from the checkpoint's own files."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import CheckpointError
from common.manifest import Manifest, read_manifest
from common.model_store import model_folder, resolve
from tandem.v1.inference_service_pb2 import GetModelResponse

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 4 << 20
COMPUTE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOATS = ("F32", "BF16", "F16")


def find_checkpoint(model: GetModelResponse, named: str | None) -> Path | None:
    """Return the folder of the checkpoint that the gateway serves, or None when it is not on this machine.

    It is looked for where `named` says, else in the store. Raises CheckpointError when `named` is another checkpoint
    than the one that is served, or none.
    """
    if named is not None:
        folder = resolve(named)
        if read_manifest(folder)[1] != model.checkpoint_hash:
            raise CheckpointError(f"{folder} is not the checkpoint that is served")
        return folder
    try:
        folder = model_folder(model.name)
        return folder if read_manifest(folder)[1] == model.checkpoint_hash else None
    except CheckpointError:
        return None


def weight_bytes_per_step(folder: Path, dtype: str, tensor_parallel_size: int, compact_saved_bytes: int = 0) -> int:
    """Return the bytes of weights that all ranks together read in one decode step.

    Unquantised matrices count in `dtype`, the type the ranks compute in; everything else as it is stored. Of an
    embedding apart from the head only single rows are read: it is left out. Norms are read by every rank, and KV heads
    by more than one where there are more ranks than KV heads. Of experts, as many count as one token goes to.
    Ranks tell what they save by holding matrices compact: `compact_saved_bytes`, of all of them.
    """
    manifest, _ = read_manifest(folder)
    stored_bytes = sum(
        _read_bytes(name, entry, manifest, COMPUTE_BYTES[dtype], tensor_parallel_size)
        for file in manifest.files
        if file.endswith(".safetensors")
        for name, entry in _header(folder / file)
    )
    return stored_bytes - compact_saved_bytes


def _read_bytes(name: str, entry: dict[str, Any], manifest: Manifest, compute_bytes: int, ranks: int) -> int:
    start, stop = entry["data_offsets"]
    stored_bytes: int = stop - start
    architecture = manifest.architecture
    if name.startswith("embedding.") and not architecture.tied_embeddings:
        return 0
    if len(entry["shape"]) == 1 and name.endswith("norm.weight"):
        return stored_bytes * ranks
    if name.endswith(".weight") and entry["dtype"] in FLOATS:
        stored_bytes = math.prod(entry["shape"]) * compute_bytes
    if ".attention.key." in name or ".attention.value." in name:
        return stored_bytes * max(architecture.kv_heads, ranks) // architecture.kv_heads
    if ".experts." in name and architecture.variations is not None and architecture.variations.experts is not None:
        return stored_bytes * architecture.variations.experts.per_token // architecture.variations.experts.count
    return stored_bytes


def _header(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name, type, shape and place of each tensor (https://github.com/huggingface/safetensors#format)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: a header of {length} bytes is too large")
            entries = json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: its header cannot be read: {error}") from error
    entries.pop("__metadata__", None)
    yield from entries.items()
