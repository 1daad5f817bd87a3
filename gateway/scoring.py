"""One Score request on its way: the step loop puts log-probabilities in, chunk by chunk."""

import asyncio
from collections.abc import Sequence as Seq

from common.errors import TandemError
from gateway.sampling.logprobs import PositionLogprobs
from gateway.scheduling.sequence import Kind, Sequence
from gateway.waterfall import Waterfall


class Scoring:
    """The likelihoods of the tokens of one text, from position `first` (at least 1) on."""

    def __init__(self, token_ids: Seq[int], first: int, top_logprobs: int, waterfall: Waterfall) -> None:
        self.sequence = Sequence(
            tenant="", prompt_ids=token_ids, max_new_tokens=0, kind=Kind.SCORE, first_scored=first
        )
        self.top_logprobs = top_logprobs
        self.waterfall = waterfall
        self._wanted = len(token_ids) - first
        self._entries: list[PositionLogprobs] = []
        self._result: asyncio.Future[list[PositionLogprobs]] = asyncio.get_running_loop().create_future()

    def add(self, entries: Seq[PositionLogprobs]) -> None:
        """Take the next positions."""
        self._entries += entries
        if len(self._entries) == self._wanted and not self._result.done():
            self._result.set_result(self._entries)

    def fail(self, error: TandemError) -> None:
        """End with an error."""
        if not self._result.done():
            self._result.set_exception(error)

    async def done(self) -> list[PositionLogprobs]:
        """Return the entries of all wanted positions. Raises what the request failed with."""
        return await self._result
