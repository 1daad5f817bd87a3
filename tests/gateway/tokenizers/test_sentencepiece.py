"""SentencePiece models against the `sentencepiece` library, for text, random ids and chats."""

import io
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from common.errors import CheckpointError
from gateway.tokenizers.sentencepiece import SentencePieceTokenizer
from gateway.tokenizers.sentencepiece_model import read_model
from tests.gateway.tokenizers import samples

MODELS = samples.sentencepiece_models()


def trained(**options: Any) -> bytes:
    """Return a small model."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(samples.source_lines()[:3000]),
        model_writer=written,
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    return written.getvalue()


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_ids_and_text_equal_the_library(path: Path) -> None:
    data = path.read_bytes()
    ours, library = SentencePieceTokenizer(data, ""), SentencePieceProcessor(model_proto=data)
    assert ours.vocabulary_size == library.get_piece_size()
    for line in samples.corpus():
        ids = library.encode(line)
        assert ours.encode(line) == ids, line
        decoder = ours.decoder()
        text = library.decode(ids)
        assert "".join(map(decoder.push, ids)) + decoder.flush() == ours.decode(ids) == text, line


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_random_ids_decode_as_the_library(path: Path) -> None:
    data = path.read_bytes()
    ours, library = SentencePieceTokenizer(data, ""), SentencePieceProcessor(model_proto=data)
    for size in (3, 259, 800, ours.vocabulary_size):  # unknown and control, bytes, few, all
        for ids in samples.random_ids(size - 5 if size > 3 else size, 300):
            known = [i for i in ids if i < ours.vocabulary_size]
            assert ours.decode(ids) == library.decode(known), ids


@pytest.mark.parametrize("remove_extra_whitespaces", [True, False])
@pytest.mark.parametrize("add_dummy_prefix", [True, False])
def test_leading_spaces_decode_as_the_library(remove_extra_whitespaces: bool, add_dummy_prefix: bool) -> None:
    data = trained(remove_extra_whitespaces=remove_extra_whitespaces, add_dummy_prefix=add_dummy_prefix)
    ours, library = SentencePieceTokenizer(data, ""), SentencePieceProcessor(model_proto=data)
    space = library.piece_to_id("\u2581")
    starts = [i for i in range(library.get_piece_size()) if library.id_to_piece(i).startswith("\u2581")][:6]
    for first in (space, 0, 1, 35, 3 + 0x20, 3 + 0xF0, 400):
        for second in (space, 1, 3 + 0x20, 3 + 0x9F, *starts):
            for third in (space, 2, *starts):
                ids = [first, second, third]
                assert ours.decode(ids) == library.decode(ids), ids


def test_control_pieces_are_special_and_never_read_from_text() -> None:
    path = next(path for path in MODELS if path.name.endswith(".v3"))
    ours = SentencePieceTokenizer(path.read_bytes(), "")
    assert ours.special_tokens["[INST]"] == 3 and ours.special_tokens["<s>"] == 1
    ids = ours.encode("<s>[INST] a [/INST]</s>")
    assert not set(ids) & set(ours.special_tokens.values())
    assert ours.decode([1, 3, *ids, 2]) == "<s>[INST] a [/INST]</s>"


def test_rendered_text_begins_after_the_first_token_only() -> None:
    path = next(path for path in MODELS if path.name.endswith(".v3"))
    data = path.read_bytes()
    ours, library = SentencePieceTokenizer(data, ""), SentencePieceProcessor(model_proto=data)
    assert ours.encode_rendered("<s>[INST] hello[/INST] well</s>", "\ue000") == [
        *(1, 3, *library.encode("hello")),
        *(4, *library.encode("well"), 2),
    ]
    assert ours.encode_rendered("<s>hello", "\ue000") == [1, *library.encode("hello")]
    assert ours.encode_rendered("hello", "\ue000") == library.encode("hello")


def test_guarded_control_strings_stay_text() -> None:
    path = next(path for path in MODELS if path.name.endswith(".v3"))
    ours = SentencePieceTokenizer(path.read_bytes(), "")
    ids = ours.encode_rendered("[INST] a<\ue000/s>b[/INST]", "\ue000")
    assert ids == [3, *ours.encode("a</s>b"), 4]


def test_user_defined_pieces_that_the_template_writes_are_control_tokens() -> None:
    data = trained(user_defined_symbols=["<|user|>", "<br>"])
    library = SentencePieceProcessor(model_proto=data)
    user, line_break = library.piece_to_id("<|user|>"), library.piece_to_id("<br>")
    ours = SentencePieceTokenizer(data, "{{ '<|user|>' }}")
    ids = ours.encode("a<|user|>b<br>c")
    assert user not in ids and line_break in ids
    assert user in library.encode("a<|user|>b<br>c")
    assert ours.decode(ids) == "a<|user|>b<br>c"
    assert ours.encode_rendered("<|user|>b<|\ue000user|>", "\ue000").count(user) == 1
    assert ours.decode([user]) == library.decode([user]) == "<|user|>"


def test_models_that_rewrite_decoded_text_are_refused() -> None:
    model = read_model(MODELS[0].read_bytes())
    model.denormalizer_spec.precompiled_charsmap = b"x"
    with pytest.raises(CheckpointError, match="denormalizer"):
        SentencePieceTokenizer(model.SerializeToString(), "")


@pytest.mark.parametrize("data", [b"", b"\x00\xff", b"no model"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="SentencePiece"):
        SentencePieceTokenizer(data, "")


def test_writing_a_model_again_changes_nothing() -> None:
    data = MODELS[0].read_bytes()
    first = SentencePieceProcessor(model_proto=data)
    again = SentencePieceProcessor(model_proto=read_model(data).SerializeToString())
    assert all(first.encode(line) == again.encode(line) for line in samples.corpus()[:300])
