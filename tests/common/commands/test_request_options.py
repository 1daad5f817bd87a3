"""Flags become exactly the request's fields."""

import io
import sys
from typing import Any

import click
import pytest

from common.commands.printers import plain, printable
from common.commands.request_options import build_request, chat_turns, prompt_or_stdin, request_options
from tandem.v1.inference_service_pb2 import GenerateRequest, StoppingParams, Usage
from tandem.v1.sampling_pb2 import SamplingParams
from tests.support.click_flags import parsed_flags


def parse(*arguments: str) -> dict[str, Any]:
    return parsed_flags(request_options, arguments)


def test_nothing_given_sets_nothing() -> None:
    request = build_request("hi", parse())
    assert request == GenerateRequest(text="hi", sampling=SamplingParams(), stopping=StoppingParams())
    assert not request.sampling.HasField("temperature")
    assert not request.stopping.HasField("max_tokens")
    assert not request.HasField("logprobs")


def test_everything_given_is_set() -> None:
    sampling = ["--temperature", "0.5", "--top-k", "3", "--top-p", "0.25", "--min-p", "0.125", "--seed", "9"]
    penalties = ["--repetition-penalty", "2", "--presence-penalty", "1", "--frequency-penalty", "-1"]
    stopping = ["--max-tokens", "7", "--stop", "a", "--stop", "b,c", "--ignore-eos"]
    request = build_request("hi", parse(*sampling, *penalties, *stopping), logprobs=0)
    assert request.sampling == SamplingParams(
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        seed=9,
        repetition_penalty=2,
        presence_penalty=1,
        frequency_penalty=-1,
    )
    assert request.stopping == StoppingParams(max_tokens=7, stop_strings=["a", "b,c"], ignore_eos=True)
    assert request.HasField("logprobs")


def test_zero_is_not_absent() -> None:
    assert build_request("hi", parse("--temperature", "0", "--seed", "0")).sampling.HasField("seed")


@pytest.mark.parametrize("arguments", [("--seed", "-1"), ("--max-tokens", "-1"), ("--seed", str(1 << 64))])
def test_numbers_no_field_can_hold_are_wrong_usage(arguments: tuple[str, str]) -> None:
    with pytest.raises(click.UsageError):
        build_request("hi", parse(*arguments))


def test_a_chat_request_has_its_turns() -> None:
    request = build_request(chat_turns("be kind", "hi"), parse())
    assert [(turn.role, turn.content) for turn in request.chat.messages] == [("system", "be kind"), ("user", "hi")]


def test_plain_names_every_field() -> None:
    assert plain(Usage(prompt_tokens=3)) == {
        "prompt_tokens": 3,
        "completion_tokens": 0,
        "cached_prompt_tokens": 0,
        "preemptions": 0,
    }


def test_control_characters_do_not_reach_a_terminal() -> None:
    assert printable("a\x1b[31mb\tc\nd\x07\x9b\x7fé") == "a[31mb\tc\ndé"


def test_a_prompt_comes_from_standard_input_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prompt_or_stdin("") == "", "an empty prompt is one"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("größer".encode()), "utf-8"))
    assert prompt_or_stdin(None) == "größer"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"))
    with pytest.raises(click.UsageError, match="no text in utf-8: invalid start byte"):
        prompt_or_stdin(None)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(click.UsageError, match="neither a PROMPT nor a standard input"):
        prompt_or_stdin(None)
