"""A GGUF file: its metadata and where its tensors lie, read under limits.

The `gguf` package's own reader makes a Python object of every array element before any bound can be checked,
so the header is walked here; its dequantisation is used as is.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from dataclasses import dataclass
from io import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from common.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_METADATA_BYTES = 64 << 20
MAX_ENTRIES = 4096
MAX_ARRAY_LENGTH = 1 << 20
MAX_TENSORS = 20_000
MAX_DIMENSIONS = 4
LENGTH_BYTES = 8

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

Scalar = str | int | float | bool


@dataclass(frozen=True)
class GgufArray:
    """An array as it is stored: its objects, many times the size, are made by whoever needs them."""

    kind: GGUFValueType
    length: int
    data: bytes

    def items(self) -> list[Scalar]:
        """Return the elements. Raises CheckpointError for a string that is not UTF-8."""
        if self.kind != GGUFValueType.STRING:
            return [value for (value,) in struct.iter_unpack("<" + _SCALARS[self.kind], self.data)]
        strings: list[Scalar] = []
        at = 0
        try:
            for _ in range(self.length):
                start = at + LENGTH_BYTES
                at = start + int.from_bytes(self.data[at:start], "little")
                strings.append(self.data[start:at].decode())
        except UnicodeDecodeError as error:
            raise CheckpointError(f"a string of a GGUF file: {error}") from error
        return strings


Value = Scalar | GgufArray


@dataclass(frozen=True)
class GgufTensor:
    """One tensor: shape in torch's order (rows first), and its bytes in the file."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    num_bytes: int


class GgufFile:
    """`metadata` by key and `tensors` by name of the GGUF file `path`.

    Raises CheckpointError when it is not a little-endian GGUF file of version 2 or 3, exceeds a limit of this
    module, or places a tensor outside the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                header = _Header(file, path.stat().st_size)
                self.metadata = header.metadata
                self.tensors = header.tensors
        except (OSError, ValueError, struct.error) as error:
            raise CheckpointError(f"{path}: not a GGUF file that can be read: {error}") from error

    def packed_rows(self, name: str) -> npt.NDArray[np.uint8]:
        """Return the tensor's stored bytes, one row of blocks per row, u8[rows, row_bytes], in a mapping of its own.

        What was read of it stays resident as long as the array. Raises CheckpointError when the file is gone.
        """
        tensor = self.tensors[name]
        rows = math.prod(tensor.shape[:-1])
        shape = (rows, tensor.num_bytes // rows)
        try:
            return np.memmap(self.path, mode="r", dtype=np.uint8, offset=tensor.offset, shape=shape)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.path}: {error}") from error


class _Header:
    """Walks the header; raises ValueError or struct.error where it does not follow."""

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        if file.read(4) != MAGIC:
            raise ValueError("it does not start with GGUF")
        if (version := self._scalar("I")) not in VERSIONS:
            raise ValueError(f"version {version} is not one of {VERSIONS}")
        num_tensors = self._count(MAX_TENSORS, "tensors")
        num_entries = self._count(MAX_ENTRIES, "metadata entries")
        self.metadata: dict[str, Value] = {}
        for _ in range(num_entries):
            key = self._string()
            if key in self.metadata:
                raise ValueError(f"{key} is there twice")
            self.metadata[key] = self._value(GGUFValueType(self._scalar("I")))
        self.tensors = self._tensors(num_tensors)

    def _tensors(self, num_tensors: int) -> dict[str, GgufTensor]:
        infos = [(self._string(), *self._tensor_info()) for _ in range(num_tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError("general.alignment is not a power of two")
        data_start = self._file.tell() + -self._file.tell() % alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise ValueError(f"tensor {name} is there twice")
            block_elements, block_bytes = GGML_QUANT_SIZES[kind]
            if shape[-1] % block_elements:
                raise ValueError(f"tensor {name}: rows of {shape[-1]} elements do not fill blocks of {kind.name}")
            num_bytes = math.prod(shape) // block_elements * block_bytes
            if data_start + offset + num_bytes > self._file_bytes:
                raise ValueError(f"tensor {name} lies outside the file")
            tensors[name] = GgufTensor(shape, kind, data_start + offset, num_bytes)
        return tensors

    def _tensor_info(self) -> tuple[tuple[int, ...], GGMLQuantizationType, int]:
        dimensions = self._scalar("I")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions")
        # GGUF lists the fastest-running dimension first.
        shape = tuple(self._scalar("Q") for _ in range(dimensions))[::-1]
        if 0 in shape:
            raise ValueError(f"a tensor of shape {shape}")
        return shape, GGMLQuantizationType(self._scalar("I")), self._scalar("Q")

    def _value(self, kind: GGUFValueType) -> Value:
        if kind != GGUFValueType.ARRAY:
            return self._element(kind)
        kind = GGUFValueType(self._scalar("I"))
        if kind == GGUFValueType.ARRAY:
            raise ValueError("an array of arrays")
        length = self._count(MAX_ARRAY_LENGTH, "array elements")
        if kind != GGUFValueType.STRING:
            return GgufArray(kind, length, self._bytes(length * struct.calcsize("<" + _SCALARS[kind])))
        start = self._file.tell()
        for _ in range(length):
            self._skip(self._scalar("Q"))
        end = self._file.tell()
        self._file.seek(start)
        return GgufArray(kind, length, self._bytes(end - start))

    def _element(self, kind: GGUFValueType) -> Scalar:
        return self._string() if kind == GGUFValueType.STRING else self._scalar(_SCALARS[kind])

    def _string(self) -> str:
        return self._bytes(self._scalar("Q")).decode()

    def _count(self, limit: int, what: str) -> int:
        count: int = self._scalar("Q")
        if count > limit:
            raise ValueError(f"{count} {what} are more than {limit}")
        return count

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._bytes(struct.calcsize("<" + code)))[0]

    def _bytes(self, count: int) -> bytes:
        self._check_end(count)
        return self._file.read(count)

    def _skip(self, count: int) -> None:
        self._check_end(count)
        self._file.seek(count, SEEK_CUR)

    def _check_end(self, count: int) -> None:
        if self._file.tell() + count > min(MAX_METADATA_BYTES, self._file_bytes):
            raise ValueError("its header does not end in time")
