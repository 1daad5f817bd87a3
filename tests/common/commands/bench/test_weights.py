"""Bytes of weights a step reads, counted from checkpoints' own files."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from common.commands.bench.weights import find_checkpoint, weight_bytes_per_step
from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE
from tandem.v1.inference_service_pb2 import GetModelResponse
from tests.support.tiny_manifest import LLAMA_VARIATIONS, tiny_manifest

ITEM_BYTES = {"F32": 4, "BF16": 2, "I8": 1, "U8": 1}
HIDDEN, VOCABULARY, KV_HEADS, HEAD = 8, 20, 2, 4
TENSORS = {
    "embedding.weight": ("BF16", (VOCABULARY, HIDDEN)),
    "layers.0.attention_norm.weight": ("F32", (HIDDEN,)),
    "layers.0.attention.key.weight": ("BF16", (KV_HEADS * HEAD, HIDDEN)),
    "layers.0.feed_forward.up.weight": ("BF16", (16, HIDDEN)),
}
HEAD_TENSOR = {"head.weight": ("BF16", (VOCABULARY, HIDDEN))}
KEY, UP, TABLE, NORM = 8 * 8, 16 * 8, 20 * 8, 8


def make_checkpoint(folder: Path, tensors: dict[str, tuple[str, tuple[int, ...]]], tied: bool) -> Path:
    """Write a manifest and a safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(offset))
    sizes = {"kv_heads": KV_HEADS, "head_dim": HEAD, "hidden_size": HIDDEN, "vocabulary_size": VOCABULARY}
    files = {"model.safetensors": {"bytes": 0, "sha256": ""}}
    manifest = tiny_manifest(sizes | {"tied_embeddings": tied}, dtype="bfloat16", files=files)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


def test_a_tied_embedding_is_read_as_the_head(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, TENSORS, tied=True)
    assert weight_bytes_per_step(folder, "bfloat16", 1) == 2 * (TABLE + KEY + UP) + 4 * NORM
    assert weight_bytes_per_step(folder, "float32", 1) == 4 * (TABLE + KEY + UP) + 4 * NORM
    assert weight_bytes_per_step(folder, "bfloat16", 1, 100) == 2 * (TABLE + KEY + UP) + 4 * NORM - 100


def test_of_an_embedding_of_its_own_only_rows_are_read(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, TENSORS | HEAD_TENSOR, tied=False)
    assert weight_bytes_per_step(folder, "bfloat16", 1) == 2 * (TABLE + KEY + UP) + 4 * NORM


def test_ranks_hold_copies_of_norms_and_scarce_kv_heads(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, TENSORS, tied=True)
    assert weight_bytes_per_step(folder, "bfloat16", 2) == 2 * (TABLE + KEY + UP) + 2 * 4 * NORM
    assert weight_bytes_per_step(folder, "bfloat16", 4) == 2 * (TABLE + 2 * KEY + UP) + 4 * 4 * NORM


def test_quantised_matrices_count_as_they_are_stored(tmp_path: Path) -> None:
    quantised = {
        "layers.0.feed_forward.up.weight.q": ("I8", (16, HIDDEN)),
        "layers.0.feed_forward.up.weight.scale": ("F32", (16,)),
    }
    kept = {name: tensor for name, tensor in TENSORS.items() if ".up." not in name}
    folder = make_checkpoint(tmp_path, kept | quantised, tied=True)
    assert weight_bytes_per_step(folder, "float32", 1) == 4 * (TABLE + KEY) + UP + 4 * 16 + 4 * NORM


def test_of_experts_those_of_one_token_are_read(tmp_path: Path) -> None:
    experts = {f"layers.0.feed_forward.experts.{e}.up.weight": ("BF16", (16, HIDDEN)) for e in range(4)}
    folder = make_checkpoint(tmp_path, TENSORS | experts, tied=True)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    variations = LLAMA_VARIATIONS | {"experts": {"count": 4, "per_token": 2}}
    manifest["architecture"] |= {"family": "mixtral", "variations": variations}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert weight_bytes_per_step(folder, "bfloat16", 1) == 2 * (TABLE + KEY + UP + 2 * UP) + 4 * NORM


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, TENSORS, tied=True)
    (folder / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: a header of 1099511627776 bytes"):
        weight_bytes_per_step(folder, "bfloat16", 1)
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"oops")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its header cannot be read"):
        weight_bytes_per_step(folder, "bfloat16", 1)


def test_the_checkpoint_is_the_one_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    (tmp_path / "home/models").mkdir(parents=True)
    folder = make_checkpoint(tmp_path / "home/models/tiny", TENSORS, tied=True)
    served = hashlib.sha256((folder / MANIFEST_FILE).read_bytes()).hexdigest()
    model, other = GetModelResponse(name="tiny", checkpoint_hash=served), GetModelResponse(name="tiny")
    assert find_checkpoint(model, None) == folder
    assert find_checkpoint(model, str(folder)) == folder
    assert find_checkpoint(other, None) is None
    assert find_checkpoint(GetModelResponse(name="not/../there"), None) is None
    with pytest.raises(CheckpointError, match="is not the checkpoint that is served"):
        find_checkpoint(other, str(folder))
