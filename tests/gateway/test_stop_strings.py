"""Stop strings against a naive search, for any split of the text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRequest
from gateway.stop_strings import StopMatcher, StopStrings

STOPS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=5)
PIECES = st.lists(st.text("ab\n", max_size=4), max_size=12)


def naive(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Return the text before the stop string that is complete first, the longest of several."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


def could_begin_a_stop(text: str, stops: list[str]) -> int:
    """Return the length of the longest end of the text that begins a stop string."""
    return max((i for stop in stops for i in range(len(stop)) if text.endswith(stop[:i])), default=0)


@given(PIECES, STOPS)
def test_equals_the_naive_search_for_any_split(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(StopStrings(stops))
    shown, found = "", None
    for index, piece in enumerate(pieces):
        text, found = matcher.push(piece)
        shown += text
        if found is not None:
            assert naive("".join(pieces[: index + 1]), stops) == (shown, found)
            break
        seen = "".join(pieces[: index + 1])
        assert shown == seen[: len(seen) - could_begin_a_stop(seen, stops)]  # no more is held back than must be
    if found is None:
        shown += matcher.flush()
    assert (shown, found) == naive("".join(pieces), stops)


def test_the_first_to_be_complete_wins_and_then_the_longest() -> None:
    assert StopMatcher(StopStrings(["abcde", "c"])).push("xabcde") == ("xab", "c")
    assert StopMatcher(StopStrings(["c", "bc", "abcd"])).push("xabcd") == ("xa", "bc")


def test_after_a_stop_string_everything_is_dropped() -> None:
    matcher = StopMatcher(StopStrings(["x"]))
    assert matcher.push("axb") == ("a", "x")
    assert matcher.push("c") == ("", None)
    assert matcher.flush() == ""


def test_a_held_beginning_is_shown_when_it_goes_on_differently() -> None:
    matcher = StopMatcher(StopStrings(["\n\nUser:"]))
    assert matcher.push("a\n") == ("a", None)
    assert matcher.push("\nUs") == ("", None)
    assert matcher.push("e\n") == ("\n\nUse", None)
    assert matcher.flush() == "\n"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest) as raised:
        StopStrings(["a", ""])
    assert raised.value.field == "stopping.stop_strings"


class CountedReads(list[dict[str, int]]):
    """Counts how many states are looked at."""

    reads = 0

    def __getitem__(self, index: Any) -> Any:
        self.reads += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("text", ["aaaaa", "aaaab", "ab", "b"])
def test_work_per_character_does_not_grow_with_the_text(text: str) -> None:
    automaton = StopStrings(["a" * 200 + "b", "a" * 199 + "c", "ab" * 100 + "c"])
    states = automaton.children = CountedReads(automaton.children)
    matcher = StopMatcher(automaton)
    for _ in range(2000):
        assert matcher.push(text)[1] is None
    # One look to arrive and one to leave, each at most twice: a fallback undoes an earlier step (amortised).
    assert states.reads <= 4 * 2000 * len(text)
