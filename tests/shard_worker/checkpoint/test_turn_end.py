"""Which token ends a turn is read off the chat template, and `tandem convert` gives a template to who has none."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click import Option
from tokenizers import Tokenizer, models

from common.cli.main import run
from common.errors import CheckpointError
from common.manifest import Manifest, read_manifest
from gateway.tokenizers.load import load_tokenizer
from shard_worker.checkpoint.chat_templates import CHAT_TEMPLATES, chat_template
from shard_worker.checkpoint.source import ForeignModel, TokenizerSource
from shard_worker.checkpoint.turn_end import turn_end_id
from shard_worker.commands.convert import convert
from tests.support.foreign_checkpoints import tiny_architecture, tiny_weights, write_hub
from tests.support.tiktoken_files import llama3_ranks

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def tokenizer() -> TokenizerSource:
    library = Tokenizer(models.BPE(vocab={"a": 0, "<s>": 1, "</s>": 2, "<|im_start|>": 3, "<|im_end|>": 4}, merges=[]))
    library.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>\n"])
    return TokenizerSource("tokenizer_json", library.to_str().encode(), 1, (2,))


@pytest.mark.parametrize(
    ("template", "id"),
    [
        (CHATML, 5),  # the longest that fits
        (CHATML.replace("<|im_end|>\n", " <|im_end|> "), 4),
        ("{% for m in messages %}{{ bos_token + m['content'] + '\n ' + eos_token }}{% endfor %}", 2),
        ("{% for m in messages %}{{ '<s>' + m['content'] + 'a</s>' }}{% endfor %}", None),
        ("{% for m in messages if m['role'] == 'user' %}<s>{{ m['content'] }}</s>{% endfor %}", None),
        ("<s>{{ messages }}", None),
        ("{{ raise_exception('no') }}", None),
        ("{% for %}", None),
        ("{{ 'x' * 2000000 }}", None),
    ],
)
def test_the_template_says_what_ends_a_turn(template: str, id: int | None) -> None:
    assert turn_end_id(template, tokenizer(), (2,)) == id


def test_a_manifest_states_all_ends_and_the_templates_eos_token_first(
    make_model: Callable[..., tuple[ForeignModel, Any]], write: Callable[..., Manifest], tmp_path: Path
) -> None:
    model, _ = make_model()
    model = replace(model, tokenizer=tokenizer(), chat_template=CHATML.replace("<|im_end|>\n", "<|im_end|> "))
    assert write(replace(model, end_of_text_ids=(3, 2)), tmp_path / "a").end_of_text_ids == (2, 3, 4)
    assert write(replace(model, end_of_text_ids=(3,)), tmp_path / "b").end_of_text_ids == (3, 4)
    assert write(replace(model, chat_template=None), tmp_path / "c").end_of_text_ids == model.end_of_text_ids


def test_templates_are_named_or_files(tmp_path: Path) -> None:
    shown = next(
        option.help or "" for option in convert.params if option.name == "chat_template" and isinstance(option, Option)
    )
    assert ", ".join(CHAT_TEMPLATES) in shown
    assert chat_template("llama-3") == CHAT_TEMPLATES["llama-3"]
    (tmp_path / "mine.jinja").write_text(CHATML)
    assert chat_template(str(tmp_path / "mine.jinja")) == CHATML
    for wrong in (str(tmp_path), "llama-4", str(tmp_path / "none")):
        with pytest.raises(CheckpointError, match=r"nor one of llama-2, llama-3"):
            chat_template(wrong)
    (tmp_path / "mine.jinja").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(CheckpointError, match="larger"):
        chat_template(str(tmp_path / "mine.jinja"))


def test_convert_with_metas_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hub folder with Llama 3's tokenizer.model and an eos_token_id that knows nothing of turns."""
    architecture = tiny_architecture(vocabulary_size=128_256)
    folder = write_hub(tmp_path / "hub", architecture, tiny_weights(architecture))
    (folder / "tokenizer.model").write_bytes(llama3_ranks())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 128_001}))
    command = ["convert", str(folder), "--output", str(tmp_path / "out")]
    assert run([*command, "--chat-template", "llama-3"]) == 0
    manifest, _ = read_manifest(tmp_path / "out")
    assert manifest.end_of_text_ids == (128_001, 128_009)
    assert (manifest.tokenizer.kind, manifest.tokenizer.bos_id) == ("tiktoken", 128_000)
    loaded = load_tokenizer(tmp_path / "out", manifest)
    assert loaded.decode(loaded.encode("¿Qué? <|eot_id|>")) == "¿Qué? <|eot_id|>"
    assert "comes without a chat template" not in capsys.readouterr().err
    assert run([*command, "--force"]) == 0
    assert "comes without a chat template" in capsys.readouterr().err
    assert read_manifest(tmp_path / "out")[0].end_of_text_ids == (128_001,)
    assert run([*command, "--force", "--chat-template", "llama-4"]) != 0
    assert "nor one of llama-2" in capsys.readouterr().err
