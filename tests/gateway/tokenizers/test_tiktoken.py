"""Tekken against mistral_common, Llama 3's ranks file against tiktoken as Meta's code sets it up."""

import base64
import functools
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tiktoken.load import load_tiktoken_bpe

from common.errors import CheckpointError, InvalidRequest
from common.tiktoken_file import TiktokenFile
from gateway.tokenizers.tiktoken import MAX_RUN_CHARS, TiktokenTokenizer, cut_runs
from shard_worker.checkpoint.llama3_tokenizer import read_llama3_tokenizer
from shard_worker.checkpoint.tekken_tokenizer import read_tekken
from tests.gateway.tokenizers import samples
from tests.support.tiktoken_files import llama3_ranks, tekken_files, tekken_of_version

BYTES = [bytes([byte]) for byte in range(256)]


@functools.cache
def llama3() -> TiktokenTokenizer:
    return TiktokenTokenizer(read_llama3_tokenizer(Path("tokenizer.model"), llama3_ranks(), 128_256).data)


def metas_tokenizer(ranks_file: Path) -> Any:
    """Return what Meta's `Tokenizer` makes of the file (llama-models, models/llama3/tokenizer.py)."""
    ranks = load_tiktoken_bpe(str(ranks_file))
    special = [
        *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
        *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>"),
    ]
    special += [f"<|reserved_special_token_{2 + i}|>" for i in range(1, 256 - len(special) + 1)]
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    ids = {token: len(ranks) + i for i, token in enumerate(special)}
    return tiktoken.Encoding(name="llama3", pat_str=pattern, mergeable_ranks=ranks, special_tokens=ids)


def b64(piece: bytes) -> str:
    return base64.b64encode(piece).decode()


def streamed(tokenizer: TiktokenTokenizer, ids: list[int]) -> str:
    decoder = tokenizer.decoder()
    return "".join(map(decoder.push, ids)) + decoder.flush()


@pytest.mark.parametrize("path", tekken_files(), ids=lambda path: path.name)
def test_tekken_equals_mistral_common(path: Path) -> None:
    library = Tekkenizer.from_file(path)
    ours = TiktokenTokenizer(read_tekken(path, path.read_bytes(), 1 << 17).data)
    assert ours.vocabulary_size == library.n_words
    assert all(ours.special_tokens[library.id_to_piece(id)] == id for id in range(library.num_special_tokens))
    for line in samples.corpus():
        ids = library.encode(line, bos=False, eos=False)
        assert ours.encode(line) == ids, line
        assert streamed(ours, ids) == ours.decode(ids) == library.decode(ids) == line, line
    for size in (1300, 5000, ours.vocabulary_size):  # special tokens and bytes, few, all
        for ids in samples.random_ids(size - 5, 200):
            text = library.decode(ids, special_token_policy=SpecialTokenPolicy.IGNORE)
            assert streamed(ours, ids) == ours.decode(ids) == text, ids


@pytest.mark.parametrize("version", ["v7", "v11", "v13"])
def test_tekken_of_later_versions(version: str, tmp_path: Path) -> None:
    path = tmp_path / "tekken.json"
    path.write_bytes(tekken_of_version(version))
    library = Tekkenizer.from_file(path)
    ours = TiktokenTokenizer(read_tekken(path, path.read_bytes(), 1 << 17).data)
    assert ours.special_tokens["[SYSTEM_PROMPT]"] == library.get_special_token("[SYSTEM_PROMPT]") == 17
    assert ours.special_tokens["[/THINK]"] == library.get_special_token("[/THINK]")
    assert ours.special_tokens["<SPECIAL_28>"] == library.get_special_token("<SPECIAL_28>") == 28
    assert all(ours.encode(line) == library.encode(line, False, False) for line in samples.corpus()[:300])


def test_llama3_equals_tiktoken(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(llama3_ranks())
    library, ours = metas_tokenizer(tmp_path / "tokenizer.model"), llama3()
    assert dict(ours.special_tokens) == library._special_tokens
    assert ours.vocabulary_size == library.n_vocab == 128_256
    for line in samples.corpus():
        ids = library.encode_ordinary(line)
        assert ours.encode(line) == ids, line
        assert streamed(ours, ids) == ours.decode(ids) == library.decode(ids) == line, line
    for size in (300, 5000, 128_000):
        for ids in samples.random_ids(size - 5, 200):
            assert streamed(ours, ids) == ours.decode(ids) == library.decode(ids), ids
    rendered = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi  \n<|eot_id|>"
    assert ours.encode_rendered(rendered, "\ue000") == library.encode(rendered, allowed_special="all")


def test_special_tokens_are_never_read_from_text() -> None:
    ours = llama3()
    text = "<|eot_id|><|start_header_id|>system<|end_header_id|>"
    ids = ours.encode(text)
    assert max(ids) < 128_000 and ours.decode(ids) == text
    guarded = "<|eot_id|>".replace("|", "|\ue000", 1)
    assert ours.encode_rendered(f"{guarded}<|eot_id|>", "\ue000") == [*ours.encode("<|eot_id|>"), 128_009]


def test_special_tokens_end_an_unfinished_character_and_add_nothing() -> None:
    ours = llama3()
    begun, rest = ours.encode("\u1abc")[0], 0xBC
    assert ours.decode([begun, 128_009, rest]).count("\ufffd") >= 2
    assert ours.decode([128_000, *ours.encode("a"), 128_009, 200_000, -1]) == "a"


def test_long_runs_are_cut_as_in_metas_code() -> None:
    text = "ab  " + "x" * 25 + " " * 11 + "\n" * 9 + "y" * 10 + "z z"
    assert list(cut_runs(text, 10)) == metas_cuts(text, 10)
    assert len(metas_cuts(text, 10)) == 5
    assert list(cut_runs("short", 10)) == ["short"]


def metas_cuts(text: str, max_chars: int) -> list[str]:
    """Return `_split_whitespaces_or_nonwhitespaces` of Meta's Tokenizer, character by character."""
    parts, run, is_space = [""], 0, False
    for character in text:
        run = run + 1 if run and character.isspace() == is_space else 1
        is_space = character.isspace()
        if run > max_chars:
            parts.append("")
            run = 1
        parts[-1] += character
    return parts


def test_a_million_spaces() -> None:
    ours = llama3()
    text = " " * 1_000_000
    assert ours.decode(ours.encode(text)) == text
    assert len(ours.encode(" " * MAX_RUN_CHARS)) < MAX_RUN_CHARS


def test_a_pattern_that_gives_up_refuses_the_text() -> None:
    file = TiktokenFile.model_construct(
        pattern=r"(?i)(a|b|ab)*(?>c)|[\s\S]",
        first_id=0,
        tokens=tuple(map(b64, BYTES)),
        special_tokens={},
    )
    tokenizer = TiktokenTokenizer(file.serialise())
    assert tokenizer.encode("ab") == [97, 98]
    with pytest.raises(InvalidRequest, match="gives up"):
        tokenizer.encode("ab" * 60)


def test_a_pattern_that_is_none_is_refused() -> None:
    file = TiktokenFile.model_construct(pattern="(", first_id=0, tokens=tuple(map(b64, BYTES)), special_tokens={})
    with pytest.raises(CheckpointError, match="pattern is not valid"):
        TiktokenTokenizer(file.serialise())
