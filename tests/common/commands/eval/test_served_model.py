"""How texts become contexts and continuations, against a gateway that reads letters and says what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import click
import pytest

from common.commands.client import Client
from common.commands.eval.generation_settings import GenerationSettings
from common.commands.eval.prompt import pack_chat
from common.commands.eval.served_model import ServedModel
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams

BEGIN, END = 1, 2
T = TypeVar("T")


class Letters:
    """A stub whose tokens are code points, after BEGIN. Each scored token's log-probability is minus its id."""

    def __init__(self, begin: bool = True) -> None:
        self.begin_ids = [BEGIN] if begin else []
        self.asked: list[Any] = []

    async def Tokenize(self, request: pb.TokenizeRequest) -> pb.TokenizeResponse:
        if request.WhichOneof("prompt") == "chat":
            text = "".join(f"[{turn.content}]" for turn in request.chat.messages) + "assistant:\n "
            return pb.TokenizeResponse(token_ids=[BEGIN, *map(ord, text)])
        return pb.TokenizeResponse(token_ids=[*self.begin_ids, *map(ord, request.text)])

    async def Detokenize(self, request: pb.DetokenizeRequest) -> pb.DetokenizeResponse:
        return pb.DetokenizeResponse(text="".join(map(chr, request.token_ids)))

    async def Score(self, request: pb.ScoreRequest) -> pb.ScoreResponse:
        self.asked.append((list(request.token_ids.ids), request.first_position))
        scored = request.token_ids.ids[request.first_position :]
        return pb.ScoreResponse(
            logprobs=[pb.TokenLogprobs(logprob=-id) for id in scored], is_greedy=[id != ord("x") for id in scored]
        )

    def Generate(self, request: pb.GenerateRequest) -> "Stream":
        self.asked.append(list(request.token_ids.ids))
        return Stream(["ab", "c.d", "e"])


class Stream:
    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(started=pb.GenerateStarted())
        for text in self.texts:
            yield pb.GenerateResponse(delta=pb.GenerateDelta(text=text))
        yield pb.GenerateResponse(finished=pb.GenerateFinished())

    def cancel(self) -> None:
        self.cancelled = True


def model(stub: Letters, prefix_token_id: int | None = None, ends: tuple[int, ...] = (END,)) -> ServedModel:
    described = pb.GetModelResponse(name="letters", context_length=10, end_of_text_ids=ends)
    return asyncio.run(ServedModel.of(Client(stub, described), prefix_token_id))  # type: ignore[arg-type]


def run(answer: Awaitable[T]) -> T:
    async def wait() -> T:
        return await answer

    return asyncio.run(wait())


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_spaces_between_belong_to_the_continuation() -> None:
    assert run(model(Letters()).split("ab ", "c")) == ([BEGIN, *ids("ab")], ids(" c"))
    assert run(model(Letters(begin=False)).split("ab", " c")) == (ids("ab"), ids(" c"))


def test_an_empty_context_is_the_prefix_token() -> None:
    assert run(model(Letters()).split("", "cd")) == ([BEGIN], ids("cd"))
    assert run(model(Letters(begin=False)).split("", "cd")) == ([END], ids("cd"))
    assert run(model(Letters(), prefix_token_id=7).split("", "cd")) == ([7], ids("cd"))
    assert run(model(Letters(), prefix_token_id=ord("c")).split("", "cd")) == (ids("c"), ids("d"))
    with pytest.raises(click.ClickException, match="--prefix-token-id"):
        model(Letters(begin=False), ends=())


def test_a_conversation_is_a_context_whose_last_spaces_are_the_continuations() -> None:
    chat = pack_chat([{"role": "user", "content": "q"}], add_generation_prompt=True)
    assert run(model(Letters()).split(chat, "c")) == ([BEGIN, *ids("[q]assistant:")], ids("\n c"))


def test_the_continuation_is_scored_and_the_context_cut_from_the_left() -> None:
    stub = Letters()
    assert run(model(stub).loglikelihood(ids("abc"), ids("de"))) == (-201.0, True)
    assert run(model(stub).loglikelihood(ids("abcdefghi"), ids("xy"))) == (-241.0, False)
    assert stub.asked == [(ids("abcde"), 3), (ids("bcdefghi") + ids("xy"), 8)]


@pytest.mark.parametrize("continuation", ["", "0123456789"])
def test_what_cannot_be_scored_is_refused(continuation: str) -> None:
    with pytest.raises(click.ClickException, match="cannot be scored: the context holds 10"):
        run(model(Letters()).loglikelihood(ids("a"), ids(continuation)))


def test_answers_leave_room_for_themselves_and_end_before_a_stop_string() -> None:
    stub = Letters(begin=False)
    settings = GenerationSettings(until=(".",), max_tokens=4, sampling=SamplingParams())
    assert run(model(stub).generate("0123456789", settings)) == "abc"
    assert stub.asked == [ids("456789")]
    with pytest.raises(click.ClickException, match="leave no room"):
        run(model(stub).generate("0", GenerationSettings((), 10, SamplingParams())))
