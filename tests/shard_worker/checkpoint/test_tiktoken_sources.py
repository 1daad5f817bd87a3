"""Llama 3's ranks file and tekken.json: told by their content, and refused where they are damaged."""

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.tiktoken_file import read_tiktoken_file
from shard_worker.checkpoint.from_meta import consolidated_shards, open_meta
from shard_worker.checkpoint.huggingface_tokenizer import read_tokenizer
from shard_worker.checkpoint.llama3_tokenizer import is_ranks_file, read_llama3_tokenizer
from shard_worker.checkpoint.tekken_tokenizer import read_tekken
from shard_worker.checkpoint.text_ends import tokenizers_own_ends
from tests.support.foreign_checkpoints import (
    PIECES,
    save_safe,
    sentencepiece_model,
    tiny_architecture,
    tiny_weights,
    write_meta,
)
from tests.support.tiktoken_files import llama3_ranks

Change = Callable[[dict[str, Any]], object]


def small_tekken() -> dict[str, Any]:
    """Return a tekken.json of 256 bytes, one token more than is used, and 24 special tokens."""
    pieces = [*(bytes([byte]) for byte in range(256)), b"ab", b"cd"]
    tokens = [{"rank": i, "token_bytes": base64.b64encode(p).decode(), "token_str": None} for i, p in enumerate(pieces)]
    config = {
        "pattern": r"\w+|\W",
        "num_vocab_tokens": 258,
        "default_vocab_size": 281,
        "default_num_special_tokens": 24,
        "version": "v3",
    }
    return {"config": config, "vocab": tokens, "image": {"size": 1}}


def test_tokenizer_model_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(llama3_ranks())
    source = read_tokenizer(tmp_path, 128_256)
    assert (source.kind, source.bos_id, source.end_ids) == ("tiktoken", 128_000, (128_001, 128_008, 128_009))
    assert tokenizers_own_ends(tmp_path, source) == source.end_ids
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert read_tokenizer(tmp_path, 128_256).bos_id is None
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [128001, 128009]}')
    assert tokenizers_own_ends(tmp_path, source) == (128_001, 128_009)
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))
    source = read_tokenizer(tmp_path, 1000)
    assert (source.kind, source.end_ids) == ("sentencepiece", (2,))


def test_tekken_comes_last(tmp_path: Path) -> None:
    (tmp_path / "tekken.json").write_text(json.dumps(small_tekken()))
    source = read_tokenizer(tmp_path, 281)
    assert (source.kind, source.bos_id, source.end_ids) == ("tiktoken", 1, (2,))
    file = read_tiktoken_file(source.data)
    assert (file.first_id, file.vocabulary_size, file.special_tokens["<SPECIAL_23>"]) == (24, 281, 23)
    assert file.pieces()[-1] == b"ab"
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))
    assert read_tokenizer(tmp_path, 1000).kind == "sentencepiece"


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\nIQ== 0\n", b"IQ==\n", b"\x0a\x0e\x0a\x05<unk>", b'{"a": 1}'])
def test_what_is_no_ranks_file(data: bytes) -> None:
    assert not is_ranks_file(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"IQ== 0\nIg== 1\n", "2 ranks are not Llama 3's 128000"),
        (b"IQ== 0\nIg== 2\n", "line 2 is not a token and the rank 1"),
        (b"IQ== 0\nIg==\n", "line 2 is not a token"),
        (b"IQ== 0\nI 1\n", "line 2: "),
        (llama3_ranks()[:-20], "is not a token and the rank|127999 ranks"),
        (llama3_ranks().replace(b"Yg== 98\n", b"YQ== 98\n"), "twice"),
    ],
    ids=["short", "rank", "no rank", "base64", "cut off", "twice"],
)
def test_damaged_ranks_files_are_refused(data: bytes, reason: str) -> None:
    assert is_ranks_file(data)
    with pytest.raises(CheckpointError, match=reason):
        read_llama3_tokenizer(Path("tokenizer.model"), data, 128_256)


def test_ids_must_fit_in_the_models_vocabulary() -> None:
    with pytest.raises(CheckpointError, match="128256 tokens do not fit in the model's vocabulary of 128000"):
        read_llama3_tokenizer(Path("tokenizer.model"), llama3_ranks(), 128_000)
    with pytest.raises(CheckpointError, match="281 tokens do not fit in the model's vocabulary of 280"):
        read_tekken(Path("tekken.json"), json.dumps(small_tekken()).encode(), 280)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t["config"].update(version="v99"), "version 'v99' is none of"),
        (lambda t: t["config"].update(version="v11"), "no special_tokens, which version v11 must list"),
        (lambda t: t["config"].pop("pattern"), r"config\.pattern"),
        (lambda t: t["config"].update(default_vocab_size=300), "are not as many as it says"),
        (lambda t: t["config"].update(default_num_special_tokens=19), "20 special tokens are more than the 19"),
        (lambda t: t["config"].update(default_num_special_tokens=30), "each of the 256 bytes"),
        (lambda t: t["config"].update(default_num_special_tokens=300), "are not as many as it says"),
        (lambda t: t["vocab"].reverse(), "order of their ranks"),
        (lambda t: t["vocab"][7].update(token_bytes="?"), "base64"),
        (lambda t: t["vocab"][7].update(token_bytes="AA=="), "twice"),
        (lambda t: t.update(special_tokens=[{"rank": 1, "token_str": "<s>"}]), "ranks are not 0 to 0"),
        (lambda t: t.update(special_tokens=[{"rank": i, "token_str": "<s>"} for i in (0, 1)]), "there twice"),
        (lambda t: t.update(special_tokens=[{"rank": 0, "token_str": "<s>"}]), "there is no special token </s>"),
        (lambda t: t.pop("vocab"), "vocab"),
    ],
)
def test_damaged_tekken_files_are_refused(change: Change, reason: str) -> None:
    tekken = small_tekken()
    change(tekken)
    with pytest.raises(CheckpointError, match=reason):
        read_tekken(Path("tekken.json"), json.dumps(tekken).encode(), 1000)


@pytest.mark.parametrize("name", ["tekken.json", "tokenizer.model"])
def test_damaged_bytes_are_an_error_or_a_whole_tokenizer(name: str, tmp_path: Path) -> None:
    draw = random.Random(5)
    whole = json.dumps(small_tekken()).encode() if name == "tekken.json" else llama3_ranks()[:3000]
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(data))
            change = bytes(draw.randrange(256) for _ in range(draw.randrange(3)))
            data[at : at + draw.choice((0, 1, 40))] = change
        (tmp_path / name).write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
        try:
            source = read_tokenizer(tmp_path, 1000)
        except CheckpointError:
            continue
        assert source.kind == "tiktoken" and read_tiktoken_file(source.data).vocabulary_size <= 1000


def test_metas_folder_with_llama3s_tokenizer(tmp_path: Path) -> None:
    architecture = tiny_architecture(vocabulary_size=128_256)
    folder = write_meta(tmp_path / "meta", architecture, tiny_weights(architecture), save=save_safe)
    (folder / "tokenizer.model").write_bytes(llama3_ranks())
    model = open_meta(consolidated_shards(folder), lambda file: file, context_length=128)
    assert model.end_of_text_ids == (128_001, 128_008, 128_009)
    assert (model.tokenizer.kind, model.chat_template) == ("tiktoken", None)
