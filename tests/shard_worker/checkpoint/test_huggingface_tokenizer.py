"""Tokenizer, chat template and end ids of a hub folder."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_base import HuggingFaceConfig
from shard_worker.checkpoint.huggingface_tokenizer import read_chat_template, read_end_of_text_ids, read_tokenizer

CONFIG = HuggingFaceConfig(
    model_type="llama",
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    vocab_size=100,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
)


def put(folder: Path, name: str, fields: Any) -> None:
    (folder / name).write_text(json.dumps(fields))


def put_tokenizer(folder: Path, template: str | None = None) -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "<s>": 2, "</s>": 3}, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    if template is not None:
        special_tokens: Iterable[tuple[str, int]] = [("<s>", 2), ("</s>", 3)]
        tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=list(special_tokens))
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("template", "config", "bos_id"),
    [
        (None, {}, None),
        ("<s> $A", {}, 2),
        ("<s> $A", {"add_bos_token": False}, None),
        (None, {"add_bos_token": True, "bos_token": "<s>"}, 2),
        (None, {"add_bos_token": True, "bos_token": {"content": "<s>", "special": True}}, 2),
        ("<s> $A", {"add_bos_token": None}, 2),
    ],
)
def test_bos(tmp_path: Path, template: str | None, config: dict[str, Any], bos_id: int | None) -> None:
    put_tokenizer(tmp_path, template)
    put(tmp_path, "tokenizer_config.json", config)
    source = read_tokenizer(tmp_path, 4)
    assert (source.kind, source.bos_id) == ("tokenizer_json", bos_id)
    assert source.data == (tmp_path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("template", "config", "reason"),
    [
        ("<s> $A </s>", {}, "adds more than one token"),
        (None, {"add_eos_token": True}, "add_eos_token is not supported"),
        (None, {"add_bos_token": True, "bos_token": "<bos>"}, "there is no token '<bos>'"),
        (None, {"add_bos_token": True}, "there is no token None"),
    ],
)
def test_unsupported_tokenizers(tmp_path: Path, template: str | None, config: dict[str, Any], reason: str) -> None:
    put_tokenizer(tmp_path, template)
    put(tmp_path, "tokenizer_config.json", config)
    with pytest.raises(CheckpointError, match=reason):
        read_tokenizer(tmp_path, 4)


def test_ids_must_fit_in_the_models_vocabulary(tmp_path: Path) -> None:
    put_tokenizer(tmp_path)
    read_tokenizer(tmp_path, 100)
    with pytest.raises(CheckpointError, match="id 3 is not in the model's vocabulary of 3"):
        read_tokenizer(tmp_path, 3)


def test_a_missing_or_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        read_tokenizer(tmp_path, 100)
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        read_tokenizer(tmp_path, 100)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        read_tokenizer(tmp_path, 100)


def test_sentencepiece(tmp_path: Path) -> None:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["some words to learn from"] * 9),
        model_writer=model,
        model_type="bpe",
        vocab_size=30,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    source = read_tokenizer(tmp_path, 100)
    assert (source.kind, source.bos_id, source.data) == ("sentencepiece", 1, model.getvalue())
    assert SentencePieceProcessor(model_proto=source.data).vocab_size() == 30
    put(tmp_path, "tokenizer_config.json", {"add_bos_token": False})
    assert read_tokenizer(tmp_path, 100).bos_id is None
    with pytest.raises(CheckpointError, match="30 tokens do not fit"):
        read_tokenizer(tmp_path, 29)
    put(tmp_path, "added_tokens.json", {"<|im_start|>": 30, "<s>": 1})
    with pytest.raises(CheckpointError, match=r"added tokens \[30\] are not in it"):
        read_tokenizer(tmp_path, 100)
    put(tmp_path, "added_tokens.json", {"<|im_start|>": "thirty"})
    with pytest.raises(CheckpointError, match=r"are not numbers: .*thirty"):
        read_tokenizer(tmp_path, 100)


def test_chat_template(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    put(tmp_path, "tokenizer_config.json", {"chat_template": "from the config"})
    assert read_chat_template(tmp_path) == "from the config"
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    put(tmp_path, "tokenizer_config.json", {"chat_template": named})
    assert read_chat_template(tmp_path) == "plain"
    put(tmp_path, "tokenizer_config.json", {"chat_template": named[:1]})
    assert read_chat_template(tmp_path) is None
    put(tmp_path, "tokenizer_config.json", {"chat_template": 3})
    with pytest.raises(CheckpointError, match="chat_template is not a text"):
        read_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("from its file\n")
    assert read_chat_template(tmp_path) == "from its file\n"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja"):
        read_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("generation", "config", "ids"),
    [
        (None, None, ()),
        (None, 5, (5,)),
        (None, [5, 6, 5], (5, 6)),
        (7, 5, (7,)),
        ([7, 8], 5, (7, 8)),
        (0, 5, (0,)),
    ],
)
def test_end_of_text_ids(tmp_path: Path, generation: Any, config: Any, ids: tuple[int, ...]) -> None:
    if generation is not None:
        put(tmp_path, "generation_config.json", {"eos_token_id": generation})
    assert read_end_of_text_ids(tmp_path, CONFIG.model_copy(update={"eos_token_id": config})) == ids


def test_end_of_text_ids_are_numbers(tmp_path: Path) -> None:
    put(tmp_path, "generation_config.json", {"eos_token_id": ["</s>"]})
    with pytest.raises(CheckpointError, match="is not a list of token ids"):
        read_end_of_text_ids(tmp_path, CONFIG)
