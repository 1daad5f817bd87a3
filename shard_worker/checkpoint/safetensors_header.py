"""What a safetensors file says it holds, read under limits before anything maps the file."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, TypeAdapter, ValidationError

from common.errors import CheckpointError
from shard_worker.checkpoint.layout import SAFETENSORS_DTYPES

MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 20_000
MAX_COMMAS = 10 * MAX_TENSORS
"""A tensor needs four to seven. Lists of nothing but commas would take many times the header's size as objects."""
LENGTH_BYTES = 8


@dataclass(frozen=True)
class StoredTensor:
    """Shape, type and place of one tensor in a file."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: list[NonNegativeInt] = Field(min_length=2, max_length=2)


_ENTRIES = TypeAdapter(dict[str, _Entry])


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of the safetensors file `path` by name.

    Raises CheckpointError when the header is larger than 4 MiB, names more than 20,000 tensors or one twice, holds a
    type other than those of SAFETENSORS_DTYPES, or does not account for the file's size to the byte. That tensors
    neither overlap nor leave gaps is checked by the safetensors library when it opens the file.
    """
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if header_bytes > min(MAX_HEADER_BYTES, file_bytes - LENGTH_BYTES):
                raise CheckpointError(f"{path}: a header of {header_bytes} bytes is too large")
            header = file.read(header_bytes)
    except (OSError, ValueError) as error:  # a name with a zero byte, say, is a ValueError
        raise CheckpointError(f"{str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
    try:
        if header.count(b",") > MAX_COMMAS or header.count(b":") > MAX_COMMAS:
            raise CheckpointError(f"{path}: its header lists more than {MAX_TENSORS} tensors")
        fields = json.loads(header, object_pairs_hook=_once_each)
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
        fields.pop("__metadata__", None)
        if len(fields) > MAX_TENSORS:
            raise CheckpointError(f"{path}: {len(fields)} tensors are more than {MAX_TENSORS}")
        entries = _ENTRIES.validate_python(fields)
    except (ValueError, RecursionError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{path}: not a safetensors header: {problem}") from error
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if LENGTH_BYTES + header_bytes + end != file_bytes:
        raise CheckpointError(
            f"{path}: {file_bytes} bytes, but the header accounts for {LENGTH_BYTES + header_bytes + end}"
        )
    return {name: _stored(path, name, entry) for name, entry in entries.items()}


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice} is there twice")
    return fields


def _stored(path: Path, name: str, entry: _Entry) -> StoredTensor:
    dtype = SAFETENSORS_DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(
            f"{path}: {name} has type {entry.dtype}; only {', '.join(SAFETENSORS_DTYPES)} can be read"
        )
    start, stop = entry.data_offsets
    if stop - start != math.prod(entry.shape) * dtype.itemsize:
        raise CheckpointError(f"{path}: {name} holds {stop - start} bytes, which shape {entry.shape} does not fill")
    return StoredTensor(path, tuple(entry.shape), dtype)
