"""What a safetensors file may say of itself."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from common.errors import CheckpointError
from shard_worker.checkpoint import safetensors_header
from shard_worker.checkpoint.safetensors_header import read_header


def write(path: Path, header: dict[str, Any] | bytes, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(3, 5),
        "b": torch.zeros(7, dtype=torch.bfloat16),
        "c": torch.zeros(2, 2, dtype=torch.float16),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    stored = read_header(tmp_path / "x.safetensors")
    assert {name: (s.shape, s.dtype) for name, s in stored.items()} == {
        name: (tuple(t.shape), t.dtype) for name, t in tensors.items()
    }


@pytest.mark.parametrize(
    ("header", "data", "reason"),
    [
        (b"", b"", "not a safetensors header"),
        (b"[]", b"", "not a safetensors header"),
        (b"{" * 50_000, b"", "not a safetensors header"),
        (b'{"a": {"dtype": "F32"}}', b"", "not a safetensors header"),
        (b'{"a": 1, "b": 2, "a": 1}', b"", "a is there twice"),
        (b'{"a": [' + b"0," * 200_001 + b"0]}", b"", "lists more than 20000 tensors"),
        ({"a": entry("F32", [2], 0, 8) | {"extra": 1}}, bytes(8), "not a safetensors header"),
        ({"a": entry("F32", [-2], 0, 8)}, bytes(8), "not a safetensors header"),
        ({"a": entry("F64", [1], 0, 8)}, bytes(8), "a has type F64"),
        ({"a": entry("F32", [3], 0, 8)}, bytes(8), "a holds 8 bytes"),
        ({"a": entry("F32", [2], 8, 0)}, bytes(0), "a holds -8 bytes"),
        ({"a": entry("F32", [2], 0, 8)}, bytes(9), "the header accounts for"),
        ({"a": entry("F32", [2], 0, 8)}, bytes(7), "the header accounts for"),
    ],
)
def test_refuses(tmp_path: Path, header: dict[str, Any] | bytes, data: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_header(write(tmp_path / "x", header, data))


def test_refuses_a_header_that_is_too_large_without_reading_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(CheckpointError, match="too large"):
        read_header(tmp_path / "x")
    write(tmp_path / "y", b" " * (safetensors_header.MAX_HEADER_BYTES + 1), b"")
    with pytest.raises(CheckpointError, match="too large"):
        read_header(tmp_path / "y")


def test_refuses_too_many_tensors(tmp_path: Path) -> None:
    header = {f"t{i}": entry("F32", [0], 0, 0) for i in range(safetensors_header.MAX_TENSORS + 1)}
    with pytest.raises(CheckpointError, match="20001 tensors"):
        read_header(write(tmp_path / "x", header, b""))


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "absent")
