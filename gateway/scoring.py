"""One Score request on its way: the step loop puts log-probabilities in, chunk by chunk."""

import asyncio
from collections.abc import Sequence as Seq

from common.errors import TandemError
from gateway.sampling.logprobs import ScoredLogprobs
from gateway.scheduling.sequence import Kind, Sequence
from gateway.waterfall import Waterfall


class Scoring:
    """The likelihoods of the tokens of one text, from position `first` (at least 1) on."""

    def __init__(
        self, token_ids: Seq[int], first: int, top_logprobs: int, waterfall: Waterfall, tenant: str = ""
    ) -> None:
        self.sequence = Sequence(tenant, token_ids, max_new_tokens=0, kind=Kind.SCORE, first_scored=first)
        self.top_logprobs = top_logprobs
        self.waterfall = waterfall
        self._missing = len(token_ids) - first
        self._chunks: list[ScoredLogprobs] = []
        self._result: asyncio.Future[list[ScoredLogprobs]] = asyncio.get_running_loop().create_future()

    def add(self, chunk: ScoredLogprobs) -> None:
        """Take the next positions."""
        self._chunks.append(chunk)
        self._missing -= len(chunk.logprobs)
        if self._missing == 0 and not self._result.done():
            self._result.set_result(self._chunks)

    def fail(self, error: TandemError) -> None:
        """End with an error."""
        if not self._result.done():
            self._result.set_exception(error)

    async def done(self) -> list[ScoredLogprobs]:
        """Return all wanted positions, in chunks. Raises what the request failed with."""
        return await self._result
