"""A task's prompt: plain text, or a conversation that had to be passed through the harness as text."""

import json
from collections.abc import Mapping, Sequence

import click

from tandem.v1.inference_service_pb2 import ChatMessage, ChatMessages, TokenizeRequest

# A control character that no tokenizer's text begins with: what follows is a conversation as JSON.
_CHAT_MARK = "\x02chat:"


def pack_chat(turns: Sequence[Mapping[str, str]], add_generation_prompt: bool) -> str:
    """Return a conversation as the text that `tokenize_request` reads again.

    Raises click.ClickException where the assistant's turn is begun already: the service renders whole turns only.
    """
    if not add_generation_prompt:
        raise click.ClickException("a task that begins the assistant's turn (gen_prefix) cannot have a chat template")
    return _CHAT_MARK + json.dumps([{"role": turn["role"], "content": turn["content"]} for turn in turns])


def is_chat(prompt: str) -> bool:
    """Return whether `prompt` is a packed conversation."""
    return prompt.startswith(_CHAT_MARK)


def tokenize_request(prompt: str) -> TokenizeRequest:
    """Return the request for the prompt's token ids."""
    if not is_chat(prompt):
        return TokenizeRequest(text=prompt)
    turns = json.loads(prompt.removeprefix(_CHAT_MARK))
    return TokenizeRequest(chat=ChatMessages(messages=[ChatMessage(**turn) for turn in turns]))
