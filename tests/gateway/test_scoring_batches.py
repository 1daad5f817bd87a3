"""Score requests and Generate requests share steps: one scheduler, one row shape, no second path."""

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from common.arrays import F32, I32, U32, from_wire, to_wire
from gateway.scoring import Scoring
from gateway.waterfall import Waterfall
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.fake_loop import make_generation, read_ids, running_loop, until
from tests.support.fake_rank import BEST_LOGIT, VOCABULARY, FakeRank

# Log-probabilities of the token that follows, and of any other.
LSE = math.log(math.exp(BEST_LOGIT) + VOCABULARY - 1)
FOLLOWS, OTHER = BEST_LOGIT - LSE, -LSE


class ScoringRank(FakeRank):
    """A fake rank that scores, too, and does not answer before `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.tamper = self._wait

    async def _wait(self, answer: pb.RunResponse) -> pb.RunResponse:
        await self.go.wait()
        return answer

    def _run(self, plan: pb.Plan) -> pb.StepResult:
        result = super()._run(plan)
        count = len(plan.row_sequences) // 4
        ends = np.cumsum(from_wire(plan.row_lengths, U32, (count,), "row_lengths"))
        scored = from_wire(plan.row_scored, U32, (count,), "row_scored")
        ids = from_wire(plan.token_ids, I32, (-1,), "token_ids")
        wanted = from_wire(plan.scored_ids, I32, (-1,), "scored_ids")
        before = [int(id) for end, n in zip(ends, scored, strict=True) for id in ids[end - n : end]]
        best = np.array([(id + 1) % VOCABULARY for id in before], np.int32)
        result.scored_logits = to_wire(np.where(wanted == best, BEST_LOGIT, 0.0), F32)
        result.scored_lse = to_wire(np.full(len(before), LSE), F32)
        result.scored_raw_ids = to_wire(best[:, None], I32)
        result.scored_raw_logits = to_wire(np.full((len(before), 1), BEST_LOGIT), F32)
        return result


async def score(loop: Any, ids: list[int]) -> list[float]:
    scoring = Scoring(ids, 1, 0, Waterfall())
    loop.submit(scoring)
    try:
        return [float(value) for chunk in await scoring.done() for value in chunk.logprobs]
    finally:
        loop.cancel(scoring)


async def generate(loop: Any, ids: list[int]) -> list[int]:
    generation = make_generation(ids, max_new_tokens=1)
    loop.submit(generation)
    try:
        return await read_ids(generation)
    finally:
        loop.cancel(generation)


def test_what_waits_is_scored_and_generated_in_one_step() -> None:
    async def test() -> None:
        rank = ScoringRank()
        async with rank, running_loop([rank]) as (loop, _):
            first = asyncio.create_task(score(loop, [1, 2, 3]))
            await until(lambda: len(rank.plans) == 1)
            # The rank is busy with that one: all of these wait for the next step.
            scores = [asyncio.create_task(score(loop, [30 - n, 31 - n, 5, 6])) for n in range(8)]
            answers = [asyncio.create_task(generate(loop, [25, 26, n])) for n in range(4)]
            await asyncio.sleep(0)
            rank.go.set()
            await asyncio.gather(first, *scores, *answers)

            assert await first == pytest.approx([FOLLOWS, FOLLOWS], abs=1e-5)
            for task in scores:
                assert await task == pytest.approx([FOLLOWS, OTHER, FOLLOWS], abs=1e-5)
            assert [await task for task in answers] == [[n + 1] for n in range(4)]

            assert len(rank.plans) == 2, "thirteen requests, two steps"
            scored, sampled = (
                from_wire(data, U32, (12,), "rows") for data in (rank.plans[1].row_scored, rank.plans[1].row_sampled)
            )
            assert sorted(zip(scored.tolist(), sampled.tolist(), strict=True)) == [(0, 1)] * 4 + [(3, 0)] * 8

    asyncio.run(test())
