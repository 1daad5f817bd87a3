"""Windows score every token once; pieces of a text are its tokens' own borders."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import common.commands.text_windows
from common.commands.text_windows import Window, pieces_of, spread, windows_over


@given(st.integers(0, 300), st.integers(2, 40), st.integers(1, 40))
def test_every_token_with_a_context_is_scored_once(num_tokens: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    windows = list(windows_over(num_tokens, window, stride))
    scored = [position for each in windows for position in range(each.first, each.stop)]
    heads = set(range(0, num_tokens, window)) if stride == window else {0}
    assert scored == [position for position in range(num_tokens) if position not in heads]
    for each in windows:
        assert each.start < each.first < each.stop <= each.start + window
    # All but the first window give each token at least this much context.
    assert all(each.first - each.start >= window - stride for each in windows[1:])


def test_windows_of_transformers_guide() -> None:
    assert list(windows_over(10, 6, 3)) == [Window(0, 1, 6), Window(3, 6, 9), Window(6, 9, 10)]
    assert list(windows_over(1, 6, 3)) == []


def test_windows_are_spread() -> None:
    windows = list(windows_over(100, 10, 10))
    assert spread(windows, None) == windows == spread(windows, 90)
    assert [each.start for each in spread(windows, 30)] == [0, 30, 60]
    assert [each.start for each in spread(windows, 1)] == [0]
    assert spread([], 5) == []


def test_pieces_are_the_text_cut_where_lines_end() -> None:
    text = "one two\nthree  four\n\n  five\nsix seven"
    assert list(pieces_of(text, 10)) == ["one two\n", "three", "  four\n\n  ", "five\n", "six seven"]
    assert list(pieces_of("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5]
    assert list(pieces_of("", 10)) == []


@given(st.text(alphabet=" \nab", max_size=200), st.integers(2, 20))
def test_pieces_add_up(text: str, most: int) -> None:
    pieces = list(pieces_of(text, most))
    assert "".join(pieces) == text
    assert all(1 <= len(piece) <= most for piece in pieces)


@pytest.mark.parametrize("most_chars", [500, 4000])
def test_tokens_of_the_pieces_are_those_of_the_whole(embedded_model: Path, most_chars: int) -> None:
    text = (Path(common.commands.text_windows.__file__).read_text() + Path(__file__).read_text()) * 2
    tokenizer = Tokenizer.from_file(str(embedded_model / "tokenizer.json"))
    pieces = list(pieces_of(text, most_chars))
    assert len(pieces) > 2
    assert [id for piece in pieces for id in tokenizer.encode(piece).ids] == tokenizer.encode(text).ids
