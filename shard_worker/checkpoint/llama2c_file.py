"""A model file of llama2.c: what its header says, and where each matrix lies. Read under limits, without mapping it.

Formats: legacy_export (version 0) and version1_export of https://github.com/karpathy/llama2.c/blob/master/export.py.
All numbers are little endian, all weights float32.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import CheckpointError

MAGIC = 0x616B3432  # "ak42"
VERSION_1_HEADER_BYTES = 256
NUMBERS = struct.Struct("<7i")
NUMBERS_AND_FLAG = struct.Struct("<7iB")
MAGIC_AND_VERSION_BYTES = 8
START_BYTES = MAGIC_AND_VERSION_BYTES + NUMBERS_AND_FLAG.size
FLOAT_BYTES = 4

# What each version stores, in order; "*" has one of each layer, layer after layer.
LEGACY_ORDER = (
    *("embedding", "*attention_norm", "*attention.query", "*attention.key", "*attention.value", "*attention.output"),
    *("*feed_forward_norm", "*feed_forward.gate", "*feed_forward.down", "*feed_forward.up", "norm", "rope", "head"),
)
VERSION_1_ORDER = (
    *("*attention_norm", "*feed_forward_norm", "norm", "embedding"),
    *("*attention.query", "*attention.key", "*attention.value", "*attention.output"),
    *("*feed_forward.gate", "*feed_forward.down", "*feed_forward.up", "head"),
)


@dataclass(frozen=True)
class Llama2cHeader:
    """The shape of the model, as its file says it."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary_size: int
    max_seq_len: int
    shared_classifier: bool

    @property
    def head_dim(self) -> int:
        """Heads share the width."""
        return self.dim // self.heads


class Llama2cFile:
    """The header, and the weights under our names. Raises CheckpointError unless the file's size fits its header."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            file_bytes = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(START_BYTES)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from error
        self.header, order, offset = _read_header(path, start)
        self._check_numbers()
        self._shapes = self._part_shapes()
        # The size is checked before anything is made of the number of layers.
        sizes = [self._part_bytes(part) for part in order]
        if offset + sum(sizes) != file_bytes:
            raise CheckpointError(f"{path}: {file_bytes} bytes, but its header accounts for {offset + sum(sizes)}")
        self._offsets: dict[str, int] = {}
        for part, num_bytes in zip(order, sizes, strict=True):
            self._offsets[part.removeprefix("*")] = offset
            offset += num_bytes

    def blocks(self, name: str, cuts: Iterator[slice]) -> Iterator[torch.Tensor]:
        """Yield the rows `cuts` of our tensor `name`, float32. Raises CheckpointError when the file is cut short."""
        part, layer = name.removesuffix(".weight"), 0
        if part.startswith("layers."):
            _, number, part = part.split(".", 2)
            layer = int(number)
        shape = self._shapes[part]
        row_elements = math.prod(shape[1:])
        start = self._offsets[part] + layer * math.prod(shape) * FLOAT_BYTES
        for cut in cuts:
            count, offset = (cut.stop - cut.start) * row_elements, start + cut.start * row_elements * FLOAT_BYTES
            try:
                values = np.fromfile(self._path, dtype="<f4", count=count, offset=offset)
            except OSError as error:
                raise CheckpointError(f"{self._path}: {error.strerror or error}") from error
            if len(values) != count:
                raise CheckpointError(f"{self._path}: it ends within {name}")
            yield torch.from_numpy(values).reshape(-1, *shape[1:])

    def _check_numbers(self) -> None:
        h = self.header
        for key, value in vars(h).items():
            if key != "shared_classifier" and value < 1:
                raise CheckpointError(f"{self._path}: {key} is {value}")
        if h.dim % h.heads or h.head_dim % 2 or h.heads % h.kv_heads:
            raise CheckpointError(
                f"{self._path}: {h.heads} heads and {h.kv_heads} KV heads do not make even parts of a width of {h.dim}"
            )

    def _part_shapes(self) -> dict[str, tuple[int, ...]]:
        h = self.header
        kv_size = h.kv_heads * h.head_dim
        return {
            "embedding": (h.vocabulary_size, h.dim),
            "attention_norm": (h.dim,),
            "attention.query": (h.dim, h.dim),
            "attention.key": (kv_size, h.dim),
            "attention.value": (kv_size, h.dim),
            "attention.output": (h.dim, h.dim),
            "feed_forward_norm": (h.dim,),
            "feed_forward.gate": (h.hidden_dim, h.dim),
            "feed_forward.down": (h.dim, h.hidden_dim),
            "feed_forward.up": (h.hidden_dim, h.dim),
            "norm": (h.dim,),
            "rope": (h.max_seq_len, h.head_dim),  # cosines, then sines: half a head's width each; never read
            "head": (0 if h.shared_classifier else h.vocabulary_size, h.dim),
        }

    def _part_bytes(self, part: str) -> int:
        copies = self.header.layers if part.startswith("*") else 1
        return copies * math.prod(self._shapes[part.removeprefix("*")]) * FLOAT_BYTES


def is_llama2c(path: Path) -> bool:
    """Whether `path` begins as a file of llama2.c: with its magic number, or a legacy header that fits its size."""
    try:
        Llama2cFile(path)
    except CheckpointError:
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<I", MAGIC)
    return True


def _read_header(path: Path, start: bytes) -> tuple[Llama2cHeader, tuple[str, ...], int]:
    """Return the header, the order of what follows, and where it begins."""
    if len(start) < START_BYTES:
        raise CheckpointError(f"{path}: {len(start)} bytes are no file of llama2.c")
    magic, version = struct.unpack_from("<Ii", start)
    if magic == MAGIC:
        if version != 1:
            raise CheckpointError(f"{path}: version {version} of llama2.c's format is not supported, only 0 and 1")
        *numbers, shared = NUMBERS_AND_FLAG.unpack_from(start, MAGIC_AND_VERSION_BYTES)
        if shared not in (0, 1):
            raise CheckpointError(f"{path}: shared_classifier is {shared}")
        return _header(numbers, bool(shared)), VERSION_1_ORDER, VERSION_1_HEADER_BYTES
    numbers = list(NUMBERS.unpack_from(start))
    shared = numbers[5] > 0  # the sign of vocab_size
    numbers[5] = abs(numbers[5])
    return _header(numbers, shared), LEGACY_ORDER, NUMBERS.size


def _header(numbers: list[int], shared_classifier: bool) -> Llama2cHeader:
    dim, hidden_dim, layers, heads, kv_heads, vocabulary_size, max_seq_len = numbers
    return Llama2cHeader(dim, hidden_dim, layers, heads, kv_heads, vocabulary_size, max_seq_len, shared_classifier)
