"""Streams of ids to text with stop strings."""

import random

import pytest

from gateway.detokenizer import StreamText, TextDelta
from gateway.tokenizers.tokenizer_json import TokenizerJson
from tests.gateway.tokenizers import samples


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerJson:
    return TokenizerJson(samples.byte_level_json(), "")


def test_without_a_stop_the_texts_add_up_to_the_decoding(tokenizer: TokenizerJson) -> None:
    for ids in samples.random_ids(tokenizer.vocabulary_size, 200):
        stream = StreamText(tokenizer, ("never in it", "\ufffd\ufffd!"))
        texts = [stream.push(token_id) for token_id in ids]
        last = stream.flush()
        assert all(delta.stop_string is None for delta in [*texts, last])
        assert "".join(delta.text for delta in [*texts, last]) == tokenizer.decode(ids)


def test_the_text_is_cut_at_a_stop_string_across_tokens(tokenizer: TokenizerJson) -> None:
    draw = random.Random(3)
    for line in samples.corpus()[:400]:
        ids = tokenizer.encode(line)
        if len(line) < 6:
            continue
        begin = draw.randrange(len(line) - 4)
        stop = line[begin : begin + draw.randrange(1, 5)]
        stream = StreamText(tokenizer, [stop])
        shown, found = "", None
        for token_id in ids:
            delta = stream.push(token_id)
            shown += delta.text
            found = found or delta.stop_string
        assert found == stop
        assert shown + stream.flush().text == line[: line.index(stop)]


def test_special_and_unknown_ids_add_nothing(tokenizer: TokenizerJson) -> None:
    stream = StreamText(tokenizer, ())
    assert stream.push(2) == TextDelta("")
    assert stream.push(10**6) == TextDelta("")


def test_bytes_that_never_form_a_character_can_complete_a_stop_string(tokenizer: TokenizerJson) -> None:
    stream = StreamText(tokenizer, ["a\ufffd"])
    ids = tokenizer.encode("a😀")[:2]
    assert [stream.push(token_id) for token_id in ids] == [TextDelta(""), TextDelta("")]
    assert stream.flush() == TextDelta("", "a\ufffd")


def test_held_text_is_flushed(tokenizer: TokenizerJson) -> None:
    stream = StreamText(tokenizer, ["ab"])
    assert stream.push(tokenizer.encode("a")[0]) == TextDelta("")
    assert stream.flush() == TextDelta("a")
