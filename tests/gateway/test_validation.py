"""What a caller sent, checked field by field: the limits themselves, and what absent fields come to."""

import pytest

from common.errors import InvalidRequest, NotFound
from gateway import validation
from gateway.limits import ModelLimits
from gateway.stopping import FinishReason, StopRules
from tandem.v1 import inference_service_pb2 as pb

MODEL = ModelLimits(name="tiny", vocabulary_size=100, context_length=64, max_new_tokens=40)
POOL_TOKENS = 48
END_IDS = (7, 8)


def rules(prompt_tokens: int = 10, **stopping: object) -> StopRules:
    message = pb.StoppingParams(**stopping)  # type: ignore[arg-type]
    return validation.stop_rules(message, prompt_tokens, END_IDS, MODEL, POOL_TOKENS)


def refused_field(**stopping: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        rules(**stopping)  # type: ignore[arg-type]
    return caught.value.field


def test_only_the_served_model_is_found() -> None:
    for name in ("", "tiny"):
        validation.check_model(name, MODEL)
    for name in ("Tiny", "tiny ", "other"):
        with pytest.raises(NotFound, match="'tiny'"):
            validation.check_model(name, MODEL)


def test_request_ids() -> None:
    assert validation.request_id("x" * 128) == "x" * 128
    chosen = {validation.request_id("") for _ in range(100)}
    assert len(chosen) == 100 and all(len(value) == 16 for value in chosen)
    for value in ("x" * 129, "é", "a\tb", "\x00"):
        with pytest.raises(InvalidRequest) as caught:
            validation.request_id(value)
        assert caught.value.field == "request_id"


@pytest.mark.parametrize(
    "prompt_tokens, expected",
    [
        (1, 40),  # the gateway's own limit
        (20, 28),  # what is left of the KV cache
        (47, 1),
        (60, 1),  # more than the cache holds: refused later, when it asks for its blocks
    ],
)
def test_max_tokens_is_as_large_as_it_may_be_when_absent(prompt_tokens: int, expected: int) -> None:
    assert rules(prompt_tokens).max_new_tokens == expected


def test_max_tokens_limits() -> None:
    assert rules(max_tokens=40).max_new_tokens == 40
    assert rules(prompt_tokens=54, max_tokens=10).max_new_tokens == 10
    assert refused_field(max_tokens=0) == "stopping.max_tokens"
    assert refused_field(max_tokens=41) == "stopping.max_tokens"
    assert refused_field(prompt_tokens=54, max_tokens=11) == "stopping.max_tokens"


def test_stop_strings_are_counted_in_bytes() -> None:
    assert rules(stop_strings=["é" * 128] * 16).stop_strings == ("é" * 128,) * 16
    assert refused_field(stop_strings=["a"] * 17) == "stopping.stop_strings"
    assert refused_field(stop_strings=["ok", "é" * 129]) == "stopping.stop_strings[1]"
    assert refused_field(stop_strings=[""]) == "stopping.stop_strings[0]"


def test_stop_token_ids() -> None:
    assert rules(stop_token_ids=[99] * 64).stop_token_ids == frozenset({99})
    assert refused_field(stop_token_ids=[1] * 65) == "stopping.stop_token_ids"
    assert refused_field(stop_token_ids=[1, 100]) == "stopping.stop_token_ids[1]"


def test_which_token_ends_a_stream() -> None:
    both = rules(stop_token_ids=[8, 9])
    assert [both.token_ends(token_id) for token_id in (6, 7, 8, 9)] == [
        None,
        FinishReason.END_OF_TEXT,
        FinishReason.STOP_TOKEN,
        FinishReason.STOP_TOKEN,
    ]
    ignoring = rules(ignore_eos=True)
    assert ignoring.token_ends(7) is None


def test_token_ids_name_the_first_one_that_is_too_large() -> None:
    assert validation.token_ids([0, 99], "ids", MODEL) == [0, 99]
    assert validation.token_ids([], "ids", MODEL) == []
    with pytest.raises(InvalidRequest) as caught:
        validation.token_ids([0, 100, 5, 200], "ids", MODEL)
    assert caught.value.field == "ids[1]"


@pytest.mark.parametrize(
    "length, room_for, fits",
    [(0, 1, False), (1, 1, True), (63, 1, True), (64, 1, False), (64, 0, True), (65, 0, False)],
)
def test_prompts_leave_room_for_a_token(length: int, room_for: int, fits: bool) -> None:
    if fits:
        validation.prompt_length(length, "text", MODEL, room_for)
        return
    with pytest.raises(InvalidRequest) as caught:
        validation.prompt_length(length, "text", MODEL, room_for)
    assert caught.value.field == "text"


def test_conversations() -> None:
    message = pb.ChatMessage(role="user", content="")
    assert len(validation.chat_messages(pb.ChatMessages(messages=[message] * 1024))) == 1024
    for messages, field in (
        ([], "chat.messages"),
        ([message] * 1025, "chat.messages"),
        ([message, pb.ChatMessage(content="x")], "chat.messages[1].role"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            validation.chat_messages(pb.ChatMessages(messages=messages))
        assert caught.value.field == field


def test_reserved_and_bounded_numbers() -> None:
    validation.priority(0)
    assert [validation.top_logprobs(value) for value in (0, 20)] == [0, 20]
    with pytest.raises(InvalidRequest, match="priority"):
        validation.priority(1)
    with pytest.raises(InvalidRequest, match="top_logprobs"):
        validation.top_logprobs(21)
