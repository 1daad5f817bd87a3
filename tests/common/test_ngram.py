"""Prompt lookup: the most recent of the longest matches, and what followed it."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ngram import MAX_MATCH, MIN_MATCH, agreement, look_up


def ids_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def found(text: str, count: int = 4, **options: int) -> tuple[str, int]:
    """What follows a text of one id per character, and how long the match was."""
    lookup = look_up(ids_of(text), count, **options)
    return bytes(lookup.ids.tolist()).decode(), lookup.match_length


@pytest.mark.parametrize(
    ("text", "follows"),
    [
        ("", ("", 0)),
        ("ab", ("", 0)),
        ("abcdef", ("", 0)),  # nothing twice
        ("abcdeb", ("", 0)),  # one id twice is no match
        ("abcdefab", ("cdef", 2)),
        ("1abcd2abef3ab", ("ef3a", 2)),  # the most recent
        ("xabcd2yabef3xab", ("cd2y", 3)),  # the longest goes before the most recent
        ("abab", ("abab", 2)),  # a match that reaches into the end repeats itself
        ("aaa", ("aaaa", 2)),
        ("say ha ha ha", (" ha ", 6)),
    ],
)
def test_what_follows(text: str, follows: tuple[str, int]) -> None:
    assert found(text) == follows


def test_bounds_of_the_match() -> None:
    assert found("abXab", min_match=3) == ("", 0)
    assert found("aXa", min_match=1, count=1) == ("X", 1)
    long = "abcdefghijklmnopqrstuvwxyz"
    assert found(long + "0" + long, count=1) == ("0", MAX_MATCH)
    assert found(long + "0" + long, count=1, max_match=5) == ("0", 5)
    assert found("abcdefab", count=0) == ("", 0)


def test_shares_tell_how_many_matches_agree() -> None:
    text = ids_of("ab1x ab2x ab1z ab1y ab")
    lookup = look_up(text, 3)
    assert bytes(lookup.ids.tolist()) == b"1y " and lookup.match_length == 3  # " ab" thrice, "ab" alone once
    np.testing.assert_allclose(agreement(text, lookup), [2 / 3, 1 / 3, 1 / 3])


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 9))
def test_against_a_plain_search(text: list[int], count: int) -> None:
    best = (0, 0)
    for place in range(1, len(text)):  # of the id that follows the match
        length = 0
        while length < min(MAX_MATCH, place) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        best = max(best, (length, place))
    ids = np.array(text, np.int32)
    lookup = look_up(ids, count)
    if best[0] < MIN_MATCH or len(text) <= MIN_MATCH:
        assert (len(lookup.ids), lookup.match_length) == (0, 0)
        return
    tail = text[best[1] :]
    assert lookup.match_length == best[0]
    assert lookup.ids.tolist() == (tail * count)[:count]
    shares = agreement(ids, lookup)
    assert (np.diff(shares) <= 0).all() and 0 < shares[-1] <= shares[0] <= 1


def test_long_texts_are_searched_in_no_time() -> None:
    ids = np.random.default_rng(0).integers(0, 50_000, 100_000).astype(np.int32)
    ids[-20:] = ids[500:520]
    took_s = []
    for _ in range(5):
        began_s = time.perf_counter()
        assert look_up(ids, 8).ids.tolist() == ids[520:528].tolist()
        took_s.append(time.perf_counter() - began_s)
    assert min(took_s) < 0.01
