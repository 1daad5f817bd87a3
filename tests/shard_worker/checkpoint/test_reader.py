"""Reading slices of a checkpoint, and refusing one that is not what it says."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE
from shard_worker.checkpoint.reader import CheckpointReader, verify

QUERY = "layers.1.attention.query.weight"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def checkpoint(tmp_path: Path, make_model: Callable[..., Any], write: Callable[..., Any]) -> tuple[Path, Tensors]:
    model, tensors = make_model()
    write(model, tmp_path / "tiny")
    return tmp_path / "tiny", tensors


def rewrite(folder: Path, tensors: Tensors, file: str = "model.safetensors") -> None:
    """Replace (or add) a file of weights, and make the manifest agree with it."""
    save_file(tensors, folder / file)
    data = (folder / file).read_bytes()
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["files"][file] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def test_reads_everything(checkpoint: tuple[Path, Tensors]) -> None:
    folder, tensors = checkpoint
    reader = CheckpointReader(folder)
    assert reader.hash == hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    read = {name: reader.read(name) for name in tensors}
    reader.finish()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 5), (5, 32), (31, 32), (7, 7)])
@pytest.mark.parametrize("dim", [0, 1])
def test_reads_a_slice(checkpoint: tuple[Path, Tensors], dim: int, start: int, stop: int | None) -> None:
    folder, tensors = checkpoint
    with CheckpointReader(folder) as reader:
        part = reader.read(QUERY, dim, start, stop)
        assert reader.shape(QUERY) == (64, 32)
    index = (slice(None),) * dim + (slice(start, stop),)
    assert torch.equal(part, tensors[QUERY][index])
    assert part.is_contiguous()


def test_a_slice_that_is_not_there_is_refused(checkpoint: tuple[Path, Tensors]) -> None:
    with CheckpointReader(checkpoint[0]) as reader:
        for start, stop in [(0, 65), (-1, 3), (5, 4)]:
            with pytest.raises(CheckpointError, match="not within dimension 0"):
                reader.read(QUERY, 0, start, stop)


def test_leftovers_are_named(checkpoint: tuple[Path, Tensors]) -> None:
    folder, tensors = checkpoint
    reader = CheckpointReader(folder)
    for name in tensors:
        if name not in (QUERY, "norm.weight"):
            reader.read(name)
    with pytest.raises(CheckpointError, match=f"leftover tensors: {QUERY}, norm.weight"):
        reader.finish()


def test_an_unknown_tensor_is_named(checkpoint: tuple[Path, Tensors]) -> None:
    with CheckpointReader(checkpoint[0]) as reader, pytest.raises(CheckpointError, match=r"'layers\.9\.x'"):
        reader.read("layers.9.x")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop(QUERY), f"missing tensors: {QUERY}"),
        (lambda t: t.update(extra=torch.zeros(1)), "leftover tensors: extra"),
        (lambda t: t.update({QUERY: t[QUERY].T.contiguous()}), r"\(32, 64\), not torch.float32 \(64, 32\)"),
        (lambda t: t.update({QUERY: t[QUERY].half()}), r"torch.float16 .* not torch.float32"),
        (lambda t: t.update({QUERY: t[QUERY].int()}), r"torch.int32 .* not torch.float32"),
        (lambda t: t.update({QUERY: t[QUERY].char()}), r"torch.int8 .* not torch.float32"),
    ],
)
def test_tensors_other_than_the_architectures_are_refused(
    checkpoint: tuple[Path, Tensors], change: Callable[[Tensors], Any], reason: str
) -> None:
    folder, _ = checkpoint
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    rewrite(folder, tensors)
    with pytest.raises(CheckpointError, match=reason):
        CheckpointReader(folder)


def test_a_tensor_in_two_files_is_refused(checkpoint: tuple[Path, Tensors]) -> None:
    folder, tensors = checkpoint
    rewrite(folder, {QUERY: tensors[QUERY]}, "other.safetensors")
    with pytest.raises(CheckpointError, match=f"more than one file: {QUERY}"):
        CheckpointReader(folder)


def test_a_file_of_another_size_is_refused_before_it_is_mapped(checkpoint: tuple[Path, Tensors]) -> None:
    folder, _ = checkpoint
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="has 1000 bytes, not the"):
        CheckpointReader(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: No such file"):
        CheckpointReader(folder)


def test_a_gap_between_tensors_is_refused(checkpoint: tuple[Path, Tensors]) -> None:
    folder, _ = checkpoint
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["norm.weight"]["data_offsets"] = header["layers.0.attention_norm.weight"]["data_offsets"]
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    (folder / "model.safetensors").write_bytes(data[:8] + text + data[8 + length :])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        CheckpointReader(folder)


def test_verify_finds_a_changed_byte(checkpoint: tuple[Path, Tensors]) -> None:
    folder, _ = checkpoint
    told: list[tuple[str, int, int]] = []
    verify(folder, lambda *progress: told.append(progress))
    assert told[-1][1] == told[-1][2] == sum(p.stat().st_size for p in folder.iterdir() if p.name != MANIFEST_FILE)
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        verify(folder, lambda *_: None)
