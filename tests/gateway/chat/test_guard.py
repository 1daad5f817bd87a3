"""No text of a message, and no meeting of messages, makes a special string."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from common.errors import CheckpointError, InvalidRequest
from gateway.chat.guard import PRIVATE_USE, ChatGuard
from gateway.chat.message import ChatMessage

SPECIAL = {"<a>": 0, "<ab>": 1, "ab<": 2, "<<": 3}
TEXT = st.text("<ab> \ue000", max_size=8)


@given(st.lists(TEXT, min_size=1, max_size=4), st.sampled_from([str, str.strip, str.lstrip, str.rstrip]))
def test_joined_messages_hold_no_special_string(contents: list[str], trim: object) -> None:
    assert callable(trim)
    messages = [ChatMessage("user", content) for content in contents]
    guarded, guard = ChatGuard(SPECIAL, "").apply(messages)
    joined = "".join(trim(message["content"]) for message in guarded)
    assert not [special for special in SPECIAL if special in joined]
    assert all(guard not in content for content in contents)
    assert [message["content"].replace(guard, "") for message in guarded] == contents


@given(TEXT, st.integers(0, 8), st.integers(0, 8))
def test_no_slice_of_a_message_holds_a_special_string(content: str, start: int, end: int) -> None:
    guarded, _ = ChatGuard(SPECIAL, "").apply([ChatMessage("user", content)])
    assert not [special for special in SPECIAL if special in guarded[0]["content"][start:end]]


@given(st.sampled_from(sorted(SPECIAL)), st.integers(0, 3), st.integers(1, 4), TEXT)
def test_the_template_does_not_complete_a_message(special: str, start: int, length: int, other: str) -> None:
    inside = special[start : start + length]
    assume(inside)
    before, after = special[:start], special[start + length :]
    for content in (inside + other, other + inside, inside):
        guarded, _ = ChatGuard(SPECIAL, "").apply([ChatMessage("user", content)])
        for message in (guarded[0]["content"], guarded[0]["content"].strip()):
            rendered = [before + message, message + after] + [before + message + after] * (content == inside)
            assert not [string for string in SPECIAL for text in rendered if string in text]


def test_text_that_has_nothing_of_a_special_string_is_untouched() -> None:
    guarded, _ = ChatGuard({"<|im_end|>": 0}, "").apply([ChatMessage("user", "  a < b, |x| and im_end \n")])
    assert guarded == [{"role": "user", "content": "  a < b, |x| and im_end \n"}]


def test_the_guard_occurs_neither_in_messages_nor_in_the_template() -> None:
    guard = ChatGuard(SPECIAL, "\ue000").apply([ChatMessage("user", "\ue001"), ChatMessage("user", "\ue003")])[1]
    assert guard == "\ue002"


def test_messages_that_leave_no_guard_are_refused() -> None:
    everything = "".join(map(chr, PRIVATE_USE))
    with pytest.raises(InvalidRequest, match="private use"):
        ChatGuard(SPECIAL, "").apply([ChatMessage("user", everything)])
    _, guard = ChatGuard(SPECIAL, "").apply([ChatMessage("user", everything[:-1])])
    assert guard == everything[-1]


def test_a_special_token_of_one_character_is_refused() -> None:
    with pytest.raises(CheckpointError, match="one character"):
        ChatGuard({"<": 0}, "")


def test_without_special_tokens_nothing_is_guarded() -> None:
    guarded, _ = ChatGuard({}, "").apply([ChatMessage("user", "<a>")])
    assert guarded == [{"role": "user", "content": "<a>"}]


def test_known_roles_may_be_part_of_special_strings_and_others_may_not() -> None:
    guard = ChatGuard({"<|user|>": 0, "<|critic|>": 1}, "")
    guard.apply([ChatMessage("user", "a"), ChatMessage("referee", "b")])
    with pytest.raises(InvalidRequest) as raised:
        guard.apply([ChatMessage("user", "a"), ChatMessage("critic", "b")])
    assert raised.value.field == "chat.messages[1].role"
