"""Loading by manifest, and what is refused."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CheckpointError
from gateway.tokenizers.load import load_tokenizer
from gateway.tokenizers.special_strings import any_of
from tests.gateway.tokenizers import samples


def test_loads_by_kind(tmp_path: Path) -> None:
    data = samples.byte_level_json()
    (tmp_path / "tokenizer").write_bytes(data)
    tokenizer = load_tokenizer(tmp_path, samples.manifest_for(data))
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"
    data = samples.sentencepiece_models()[0].read_bytes()
    (tmp_path / "tokenizer").write_bytes(data)
    tokenizer = load_tokenizer(tmp_path, samples.manifest_for(data, kind="sentencepiece"))
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_the_template_decides_which_added_tokens_are_control_tokens(tmp_path: Path) -> None:
    data = samples.byte_level_json()
    (tmp_path / "tokenizer").write_bytes(data)
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    manifest = samples.manifest_for(data, chat_template="chat.jinja")
    assert "<|im_end|>" in load_tokenizer(tmp_path, manifest).special_tokens


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    data = samples.byte_level_json()
    (tmp_path / "tokenizer").write_bytes(data + b" ")
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_tokenizer(tmp_path, samples.manifest_for(data))


def test_a_missing_file_or_template_is_refused(tmp_path: Path) -> None:
    data = samples.byte_level_json()
    with pytest.raises(CheckpointError, match="cannot read"):
        load_tokenizer(tmp_path, samples.manifest_for(data))
    (tmp_path / "tokenizer").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"chat\.jinja"):
        load_tokenizer(tmp_path, samples.manifest_for(data, chat_template="chat.jinja"))
    (tmp_path / "chat.jinja").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="UTF-8"):
        load_tokenizer(tmp_path, samples.manifest_for(data, chat_template="chat.jinja"))
    (tmp_path / "chat.jinja").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(CheckpointError, match="larger"):
        load_tokenizer(tmp_path, samples.manifest_for(data, chat_template="chat.jinja"))


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    data = samples.byte_level_json()
    (tmp_path / "tokenizer").write_bytes(data)
    with pytest.raises(CheckpointError, match="1200 ids"):
        load_tokenizer(tmp_path, samples.manifest_for(data, vocabulary_size=1199))
    with pytest.raises(CheckpointError, match="bos_id"):
        load_tokenizer(tmp_path, samples.manifest_for(data, bos_id=1200, vocabulary_size=1200))
    with pytest.raises(CheckpointError, match="end_of_text_ids"):
        load_tokenizer(tmp_path, samples.manifest_for(data, end_of_text_ids=(2, -1)))


@given(st.sets(st.text("ab|<", min_size=1, max_size=5)), st.text("ab|<", max_size=30))
def test_any_of_finds_the_longest_string_at_every_place(strings: set[str], text: str) -> None:
    naive = re.compile("|".join(map(re.escape, sorted(strings, key=len, reverse=True))) or "(?!)")
    ours = re.compile(any_of(strings))
    assert [m.span() for m in ours.finditer(text)] == [m.span() for m in naive.finditer(text)]


def test_any_of_many_long_strings_is_small_and_flat() -> None:
    strings = [f"<|reserved_special_token_{i}|>" * 20 for i in range(300)]
    pattern = re.compile(any_of(strings))
    assert all(pattern.fullmatch(string) for string in strings)
