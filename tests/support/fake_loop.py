"""A real step loop over fake ranks, and the requests it runs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from common.health import HealthBoard
from gateway.detokenizer import StreamText
from gateway.generation import Generation
from gateway.rank_groups import FixedGroup, RankGroups
from gateway.sampling.params import SamplingParams
from gateway.scheduling.sequence import Sequence as TokenSequence
from gateway.settings import GatewaySettings
from gateway.step_loop import StepLoop
from gateway.stopping import StopRules
from gateway.tokenizers.piece_table import EACH_SUBPART, PieceDecoder, PieceTable
from gateway.waterfall import Waterfall
from tests.support.fake_rank import CHECKPOINT_HASH, VOCABULARY, FakeRank

PIECES = PieceTable([f"{token_id} ".encode() for token_id in range(VOCABULARY)], EACH_SUBPART)


class NumberTokenizer:
    """Writes every id as its number and a space. Reads nothing."""

    vocabulary_size = VOCABULARY
    special_tokens: dict[str, int] = {}  # noqa: RUF012  # as the protocol asks

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]

    def encode_rendered(self, text: str, guard: str) -> list[int]:
        return self.encode(text)

    def decode(self, token_ids: Any) -> str:
        return PIECES.decode(token_ids)

    def decoder(self) -> PieceDecoder:
        return PieceDecoder(PIECES)


def make_generation(
    prompt_ids: Sequence[int],
    max_new_tokens: int = 8,
    params: SamplingParams | None = None,
    stop_token_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    max_draft_tokens: int = 0,
) -> Generation:
    """Return a request that has not been submitted yet."""
    params = params or SamplingParams()
    stop = StopRules(max_new_tokens, frozenset(), frozenset(stop_token_ids), tuple(stop_strings))
    sequence = TokenSequence(tenant="", prompt_ids=prompt_ids, max_new_tokens=max_new_tokens, params=params)
    text = StreamText(NumberTokenizer(), stop.stop_strings)
    return Generation(sequence, params, stop, text, Waterfall(), max_draft_tokens)


@asynccontextmanager
async def running_loop(ranks: Sequence[FakeRank], **settings: Any) -> AsyncIterator[tuple[StepLoop, HealthBoard]]:
    """Run a loop that is attached to these ranks, which must listen already. Fails with what ended the loop."""
    addresses = tuple(rank.address for rank in ranks)
    made = GatewaySettings(model=Path("unused"), ranks=addresses, **settings)
    async with running_loop_of(made) as (loop, health):
        await until(lambda: health.serving)
        yield loop, health


@asynccontextmanager
async def running_loop_of(
    settings: GatewaySettings, groups: RankGroups | None = None
) -> AsyncIterator[tuple[StepLoop, HealthBoard]]:
    """Run a loop that may find no ranks yet. Fails with what ended the loop."""
    health = HealthBoard()
    groups = groups or FixedGroup(settings.ranks, CHECKPOINT_HASH, settings.step_timeout_s)
    loop = StepLoop(settings, groups, health)
    task = asyncio.create_task(loop.run())
    try:
        yield loop, health
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(holds: Any, timeout_s: float = 10.0) -> None:
    """Wait until `holds()` is true."""
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


async def read_ids(generation: Generation) -> list[int]:
    """Return all ids of a submitted request. Raises what it failed with."""
    ids: list[int] = []
    while delta := await generation.take():
        ids += delta.token_ids
    return ids
