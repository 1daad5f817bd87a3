"""Model files and tokenizers of llama2.c."""

import struct
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor

from common.errors import CheckpointError
from shard_worker.checkpoint.from_llama2c import open_llama2c
from shard_worker.checkpoint.llama2c_tokenizer import read_tokenizer_bin
from tests.support.foreign_checkpoints import (
    PIECES,
    sentencepiece_model,
    tiny_architecture,
    tiny_weights,
    tokenizer_bin,
    write_llama2c,
)


def test_a_tokenizer_bin_has_the_ids_of_the_model_it_was_made_of(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(tokenizer_bin())
    source = read_tokenizer_bin(tmp_path / "tokenizer.bin", len(PIECES))
    ours = SentencePieceProcessor(model_proto=source.data)
    theirs = SentencePieceProcessor(model_proto=sentencepiece_model(PIECES))
    for text in ("abcd ab a", "  two  spaces", "line\nbreak", "é 漢字 \N{GRINNING FACE}", "", "<s>"):
        assert ours.encode(text) == theirs.encode(text), text
    assert source.bos_id == ours.bos_id() == 1


def test_a_tokenizer_model_beside_it_counts_before_a_tokenizer_bin(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    path = write_llama2c(tmp_path / "c", architecture, tiny_weights(architecture), 1)
    (path.parent / "tokenizer.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="0 bytes do not hold a vocabulary of 292 pieces"):
        open_llama2c(path)
    (path.parent / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))
    assert open_llama2c(path).tokenizer.data == sentencepiece_model(PIECES)
    (path.parent / "tokenizer.model").unlink()
    (path.parent / "tokenizer.bin").unlink()
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.model nor tokenizer\.bin beside the model"):
        open_llama2c(path)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (4, 2, "version 2 of llama2.c's format is not supported, only 0 and 1"),
        (36, 2, "shared_classifier is 2"),
        (8, 0, "dim is 0"),
        (20, 3, "3 heads and 2 KV heads do not make even parts of a width of 32"),
        (24, -1, "kv_heads is -1"),
        (16, 3, "137088 bytes, but its header accounts for"),
    ],
    ids=["version", "flag", "zero", "heads", "negative", "layers"],
)
def test_headers_that_cannot_be_are_refused(tmp_path: Path, offset: int, value: int, reason: str) -> None:
    architecture = tiny_architecture()
    path = write_llama2c(tmp_path / "c", architecture, tiny_weights(architecture), 1)
    data = bytearray(path.read_bytes())
    number = struct.pack("<B" if offset == 36 else "<i", value)
    data[offset : offset + len(number)] = number
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=reason):
        open_llama2c(path)


def test_a_file_that_is_cut_after_it_was_opened(tmp_path: Path) -> None:
    architecture = tiny_architecture()
    path = write_llama2c(tmp_path / "c", architecture, tiny_weights(architecture), 0)
    model = open_llama2c(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"it ends within embedding\.weight"):
        list(model.tensors.blocks("embedding.weight"))
