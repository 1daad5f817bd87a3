"""Writing a checkpoint."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.errors import CheckpointError
from common.manifest import read_manifest
from shard_worker.checkpoint import source
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.checkpoint.source import TokenizerSource

MakeModel = Callable[..., Any]
Write = Callable[..., Any]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_safetensors_library_reads_what_was_written(
    tmp_path: Path, make_model: MakeModel, write: Write, dtype: str
) -> None:
    model, tensors = make_model()
    write(model, tmp_path / "tiny", dtype)
    loaded = load_file(tmp_path / "tiny" / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor if "norm" in name else tensor.to(getattr(torch, dtype))), name


def test_the_manifest_says_all(tmp_path: Path, make_model: MakeModel, write: Write) -> None:
    model, _ = make_model(tied_embeddings=True)
    written = write(model, tmp_path / "tiny", "bfloat16")
    manifest, _ = read_manifest(tmp_path / "tiny")
    assert manifest == written
    assert manifest.architecture == model.architecture
    assert (manifest.name, manifest.source, manifest.dtype) == ("tiny", "random", "bfloat16")
    assert (manifest.tokenizer.file, manifest.tokenizer.bos_id) == ("tokenizer.json", 1)
    assert manifest.end_of_text_ids == (2, 3)
    assert manifest.chat_template is not None
    assert (tmp_path / "tiny" / manifest.chat_template).read_text() == model.chat_template
    assert {p.name for p in (tmp_path / "tiny").iterdir()} == {*manifest.files, "tandem.json"}


def test_without_chat_template_and_with_sentencepiece(tmp_path: Path, make_model: MakeModel, write: Write) -> None:
    model, _ = make_model()
    model = replace(model, chat_template=None, tokenizer=TokenizerSource("sentencepiece", b"\0", None))
    manifest = write(model, tmp_path / "tiny")
    assert manifest.chat_template is None
    assert set(manifest.files) == {"model.safetensors", "tokenizer.model"}


def test_large_models_are_cut_into_files(tmp_path: Path, make_model: MakeModel, write: Write) -> None:
    model, tensors = make_model()
    limit = 12_000
    manifest = write(model, tmp_path / "tiny", max_file_bytes=limit)
    files = sorted(file for file in manifest.files if file.endswith(".safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    for file in files:
        sizes = [tensor.nbytes for tensor in load_file(tmp_path / "tiny" / file).values()]
        assert sum(sizes) <= limit or len(sizes) == 1
    reader = CheckpointReader(tmp_path / "tiny")
    for name, tensor in tensors.items():
        assert torch.equal(reader.read(name), tensor)
    reader.finish()


def test_tensors_are_written_block_by_block(
    tmp_path: Path, make_model: MakeModel, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "BLOCK_ELEMENTS", 100)
    model, tensors = make_model()
    assert len(list(model.tensors.blocks("embedding.weight"))) == 14
    write(model, tmp_path / "tiny")
    assert torch.equal(
        load_file(tmp_path / "tiny" / "model.safetensors")["embedding.weight"], tensors["embedding.weight"]
    )


def test_tensors_are_aligned_to_their_elements(tmp_path: Path, make_model: MakeModel, write: Write) -> None:
    # An odd vocabulary of an odd width in bfloat16 would put what follows at an odd multiple of two bytes.
    model, _ = make_model(hidden_size=33, vocabulary_size=41)
    write(model, tmp_path / "tiny", "bfloat16")
    data = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    for name, entry in json.loads(data[8 : 8 + length]).items():
        assert entry["data_offsets"][0] % (4 if entry["dtype"] == "F32" else 2) == 0, name


def test_the_same_model_makes_the_same_bytes(tmp_path: Path, make_model: MakeModel, write: Write) -> None:
    for folder in ("a", "b"):
        write(make_model()[0], tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("shape", "reason"), [((39, 32), "39 rows, not 40"), ((41, 32), "41 rows, not 40"), ((40, 31), "31")]
)
def test_a_misshapen_tensor_leaves_nothing(
    tmp_path: Path, make_model: MakeModel, write: Write, shape: tuple[int, ...], reason: str
) -> None:
    model, tensors = make_model()
    tensors["embedding.weight"] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=reason):
        write(model, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path, make_model: MakeModel, write: Write) -> None:
    model, _ = make_model()
    for broken in (
        replace(model, end_of_text_ids=(40,)),
        replace(model, end_of_text_ids=(-1,)),
        replace(model, tokenizer=TokenizerSource("tokenizer_json", model.tokenizer.data, bos_id=40)),
    ):
        with pytest.raises(CheckpointError, match="is not in the vocabulary of 40"):
            write(broken, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []
