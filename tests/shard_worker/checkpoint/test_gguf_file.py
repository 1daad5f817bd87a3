"""Walking a GGUF file's header, against the gguf package and against broken files."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf.gguf_reader import GGUFReader

from common.errors import CheckpointError
from shard_worker.checkpoint import gguf_file
from shard_worker.checkpoint.gguf_file import GgufArray, GgufFile


@pytest.fixture
def path(make_model: Callable[..., Any], write_gguf: Callable[..., Path]) -> Path:
    return write_gguf(*make_model(), entries={"general.alignment": 64, "general.tags": ["a", "bc", ""], "x.y": -3.5})


def header(tensors: int = 0, entries: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def test_agrees_with_the_gguf_package(path: Path) -> None:
    file, reader = GgufFile(path), GGUFReader(path)
    fields = {k: f.contents() for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert {k: v.items() if isinstance(v, GgufArray) else v for k, v in file.metadata.items()} == fields
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for theirs in reader.tensors:
        ours = file.tensors[theirs.name]
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert (ours.type, ours.offset, ours.num_bytes) == (theirs.tensor_type, theirs.data_offset, theirs.n_bytes)
        assert np.array_equal(file.packed_rows(theirs.name).ravel(), theirs.data.view(np.uint8).ravel())


def test_every_shorter_file_is_refused(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    start = min(tensor.offset for tensor in GgufFile(path).tensors.values())
    for length in [*range(0, start, 7), len(data) - 1]:
        (tmp_path / "short.gguf").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="not a GGUF file that can be read"):
            GgufFile(tmp_path / "short.gguf")


def test_no_changed_byte_of_the_header_does_worse_than_a_refusal(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    start = min(tensor.offset for tensor in GgufFile(path).tensors.values())
    random, refused = np.random.default_rng(1), 0
    for _ in range(300):
        broken = bytearray(data)
        broken[random.integers(start)] = random.integers(256)
        (tmp_path / "broken.gguf").write_bytes(broken)
        try:
            file = GgufFile(tmp_path / "broken.gguf")
            for name in file.tensors:
                assert file.packed_rows(name).nbytes == file.tensors[name].num_bytes
        except CheckpointError:
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GGML" + bytes(20), "does not start with GGUF"),
        (header(version=1), "version 1 is not"),
        (header(version=3 << 24), "is not one of"),
        (header(tensors=20_001), "20001 tensors are more"),
        (header(entries=4097), "4097 metadata entries are more"),
        (header(entries=1, rest=struct.pack("<Q", 1 << 60)), "does not end in time"),
        (header(entries=1, rest=string("k") + struct.pack("<I", 99)), "99 is not a valid"),
        (header(entries=1, rest=string("k") + struct.pack("<IIQ", 9, 9, 1)), "an array of arrays"),
        (header(entries=1, rest=string("k") + struct.pack("<IIQ", 9, 4, 1 << 40)), "array elements are more"),
        (header(entries=2, rest=(string("k") + struct.pack("<II", 4, 1)) * 2), "k is there twice"),
        (header(entries=1, rest=string("general.alignment") + struct.pack("<II", 4, 0)), "power of two"),
        (header(tensors=1, rest=string("t") + struct.pack("<I", 5)), "5 dimensions"),
        (header(tensors=1, rest=string("t") + struct.pack("<IQIQ", 1, 0, 0, 0)), r"shape \(0,\)"),
        (header(tensors=1, rest=string("t") + struct.pack("<IQIQ", 1, 33, 8, 0)), "do not fill blocks of Q8_0"),
        (header(tensors=1, rest=string("t") + struct.pack("<IQIQ", 1, 1 << 62, 0, 0)), "outside the file"),
        (header(tensors=1, rest=string("t") + struct.pack("<IQIQ", 1, 8, 0, 1 << 63)), "outside the file"),
        (header(tensors=2, rest=(string("t") + struct.pack("<IQIQ", 1, 1, 0, 0)) * 2 + bytes(64)), "t is there twice"),
    ],
)
def test_refuses(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=reason):
        GgufFile(tmp_path / "x.gguf")


def test_metadata_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "MAX_METADATA_BYTES", 500)
    with pytest.raises(CheckpointError, match="does not end in time"):
        GgufFile(path)


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        GgufFile(tmp_path / "absent.gguf")
