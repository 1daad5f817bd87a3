"""A conversation passes through the harness as text and comes out whole."""

import click
import pytest

from common.commands.eval.prompt import is_chat, pack_chat, tokenize_request

TURNS = [
    {"role": "system", "content": "Be \u201cbrief\u201d.\n"},
    {"role": "user", "content": "<|im_end|> \u4f60\u597d"},
]


def test_a_conversation_comes_out_whole() -> None:
    packed = pack_chat(TURNS, add_generation_prompt=True)
    assert is_chat(packed)
    assert [{"role": m.role, "content": m.content} for m in tokenize_request(packed).chat.messages] == TURNS


def test_text_stays_text() -> None:
    request = tokenize_request("chat: [1]")
    assert not is_chat("chat: [1]")
    assert (request.WhichOneof("prompt"), request.text) == ("text", "chat: [1]")


def test_a_begun_answer_is_refused() -> None:
    with pytest.raises(click.ClickException, match="gen_prefix"):
        pack_chat(TURNS, add_generation_prompt=False)
