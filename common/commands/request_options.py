"""The flags that say what to ask for, and the request they make."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from tandem.v1.inference_service_pb2 import (
    ChatMessage,
    ChatMessages,
    GenerateRequest,
    SpeculationParams,
    StoppingParams,
)
from tandem.v1.sampling_pb2 import SamplingParams

SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "seed",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--system", metavar="TEXT", help="system turn before the first user turn"),
    click.option("--max-tokens", type=click.INT, help="most tokens to generate"),
    click.option("--temperature", type=click.FLOAT, help="0 (the default) takes the most likely token"),
    click.option("--top-k", type=click.INT, help="draw from the k most likely tokens"),
    click.option("--top-p", type=click.FLOAT, help="draw from the most likely tokens that reach this mass"),
    click.option("--min-p", type=click.FLOAT, help="draw from tokens this likely relative to the best one"),
    click.option("--seed", type=click.INT, help="same seed, same answer"),
    click.option("--repetition-penalty", type=click.FLOAT, help="divide logits of tokens that occurred"),
    click.option("--presence-penalty", type=click.FLOAT, help="subtract once for tokens that occurred"),
    click.option("--frequency-penalty", type=click.FLOAT, help="subtract for each time a token occurred"),
    click.option("--stop", multiple=True, metavar="TEXT", help="end before this text appears; repeatable"),
    click.option("--max-draft-tokens", type=click.INT, help="most tokens drafted at once; 0 turns drafting off"),
    click.option("--ignore-eos", is_flag=True, help="keep generating past end-of-text"),
)


def prompt_or_stdin(prompt: str | None) -> str:
    """Return `prompt`, or without one what standard input holds. Raises UsageError when that cannot be read."""
    if prompt is not None:
        return prompt
    if sys.stdin is None:  # it was closed before this process began
        raise click.UsageError("there is neither a PROMPT nor a standard input to read it from")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is no text in {error.encoding}: {error.reason}") from error


def request_options(command: F) -> F:
    """Give a click command the flags that `build_request` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chat_turns(system: str | None, user: str) -> list[ChatMessage]:
    """Return the conversation that begins with `user`."""
    turns = [ChatMessage(role="system", content=system)] if system else []
    return [*turns, ChatMessage(role="user", content=user)]


def build_request(
    prompt: str | Sequence[ChatMessage], flags: Mapping[str, Any], logprobs: int | None = None
) -> GenerateRequest:
    """Return the request for `prompt` (plain text, or a conversation) that the flags describe.

    Only what was given is set: limits and defaults are the server's. Raises click.UsageError on a number
    that the field's type cannot hold.
    """
    most_drafts = flags["max_draft_tokens"]
    sampling = {name: flags[name] for name in SAMPLING_FIELDS if flags[name] is not None}
    try:
        request = GenerateRequest(
            sampling=SamplingParams(**sampling),
            stopping=StoppingParams(
                max_tokens=flags["max_tokens"], stop_strings=flags["stop"], ignore_eos=flags["ignore_eos"]
            ),
            logprobs=logprobs,
            speculation=SpeculationParams(max_draft_tokens=most_drafts) if most_drafts is not None else None,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.chat.CopyFrom(ChatMessages(messages=prompt))
    return request
