"""What the harness asks of a model, answered by the public Tokenize, Score and Generate calls of a gateway.

Texts are split into context and continuation as lm_eval's own backends do it, so that numbers can be compared.
"""

import math
from collections.abc import Sequence

import click

from common.commands.client import Client
from common.commands.eval.generation_settings import GenerationSettings
from common.commands.eval.prompt import is_chat, tokenize_request
from tandem.v1 import inference_service_pb2 as pb

Ids = list[int]


class ServedModel:
    """One gateway's model. `prefix_token_id` is the context of a text that has none."""

    def __init__(self, client: Client, prefix_token_id: int, begin_ids: Sequence[int]) -> None:
        self._client = client
        self._begin_ids = list(begin_ids)
        self.prefix_token_id = prefix_token_id

    @classmethod
    async def of(cls, client: Client, prefix_token_id: int | None) -> "ServedModel":
        """Return the model behind `client`.

        Without a `prefix_token_id` it is the token that plain text begins with, else the first end-of-text id.
        Raises click.ClickException where the model has neither.
        """
        begin_ids = (await client.stub.Tokenize(pb.TokenizeRequest(text=""))).token_ids
        candidates = [*([] if prefix_token_id is None else [prefix_token_id]), *begin_ids]
        candidates += client.model.end_of_text_ids
        if not candidates:
            raise click.ClickException("the model has no begin-of-text or end-of-text token: give --prefix-token-id")
        return cls(client, candidates[0], begin_ids)

    @property
    def context_length(self) -> int:
        """Most tokens of context and continuation together."""
        return self._client.model.context_length

    async def token_ids(self, prompt: str) -> Ids:
        """Return the ids of plain text or a packed conversation, as Generate would read them."""
        return list((await self._client.stub.Tokenize(tokenize_request(prompt))).token_ids)

    async def split(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        """Return the ids of both; spaces at the end of the context belong to the continuation.

        An empty context is the prefix token, unless the continuation begins with that.
        """
        if context == "":
            ids = await self._bare_ids(continuation)
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix_token_id] else ([self.prefix_token_id], ids)
        if is_chat(context):
            before, after = await self._without_last_spaces(await self.token_ids(context))
            return before, after + await self._bare_ids(continuation)
        bare = context.rstrip()
        whole_ids = await self.token_ids(context + continuation)
        context_ids = await self.token_ids(bare)
        return context_ids, whole_ids[len(context_ids) :]

    async def loglikelihood(self, context_ids: Ids, continuation_ids: Ids) -> tuple[float, bool]:
        """Return the continuation's log-probability in nats, and whether greedy decoding would produce it.

        What does not fit is cut off the context's beginning. Raises click.ClickException where the continuation alone
        does not fit, or is empty.
        """
        if not 0 < len(continuation_ids) < self.context_length:
            raise click.ClickException(
                f"a continuation of {len(continuation_ids)} tokens cannot be scored: "
                f"the context holds {self.context_length}"
            )
        ids = (context_ids + continuation_ids)[-self.context_length :]
        first = len(ids) - len(continuation_ids)
        answer = await self._client.stub.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=ids), first_position=first))
        return math.fsum(entry.logprob for entry in answer.logprobs), all(answer.is_greedy)

    async def generate(self, prompt: str, settings: GenerationSettings) -> str:
        """Return the text that follows `prompt`. What does not fit is cut off the prompt's beginning.

        Raises click.ClickException where the answer alone fills the context.
        """
        room = self.context_length - settings.max_tokens
        if room < 1:
            raise click.ClickException(
                f"answers of {settings.max_tokens} tokens leave no room in a context of {self.context_length}"
            )
        ids = (await self.token_ids(prompt))[-room:]
        call = self._client.stub.Generate(
            pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), sampling=settings.sampling, stopping=settings.stopping)
        )
        try:
            return settings.cut("".join([event.delta.text async for event in call]))
        finally:
            call.cancel()  # grpc.aio never cancels an abandoned call itself

    async def _bare_ids(self, text: str) -> Ids:
        """Return the ids of text without what the model begins texts with."""
        return (await self.token_ids(text))[len(self._begin_ids) :]

    async def _without_last_spaces(self, ids: Ids) -> tuple[Ids, Ids]:
        """Return the ids up to the last that is not blank, and the blank ones after it."""
        end = len(ids)
        while end > 1:
            last = await self._client.stub.Detokenize(pb.DetokenizeRequest(token_ids=[ids[end - 1]]))
            if not last.text.isspace():
                break
            end -= 1
        return ids[:end], ids[end:]
