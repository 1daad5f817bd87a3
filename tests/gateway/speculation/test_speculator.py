"""What a speculator learns from the steps of a whole loop, and whom it tells workers of."""

import asyncio
from pathlib import Path

from common.health import HealthBoard
from gateway.generation import Generation
from gateway.rank_groups import FixedGroup
from gateway.settings import GatewaySettings
from gateway.speculation.draft_pool import DraftPool
from gateway.speculation.draft_request import DraftRequest
from gateway.speculation.draft_stream import TargetIdentity
from gateway.speculation.speculator import Speculator
from gateway.speculation.step_costs import StepCosts
from gateway.step_loop import StepLoop
from tests.support.fake_draft import TARGET, FakeDraft
from tests.support.fake_loop import counting, make_generation, run_all, until
from tests.support.fake_rank import CHECKPOINT_HASH, FakeRank

FIRST_IDS = range(14, 17)


class RecordingCosts(StepCosts):
    """Remembers what was observed."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []

    def observe(self, tokens: int, duration_s: float) -> None:
        self.tokens.append(tokens)
        super().observe(tokens, duration_s)


class RecordingPool(DraftPool):
    """Remembers how many tokens were asked of whom."""

    def __init__(self, addresses: list[str], target: TargetIdentity) -> None:
        super().__init__(addresses, target)
        self.asked: dict[int, list[int]] = {}

    def ask(self, request: DraftRequest, count: int, deadline_s: float) -> bool:
        self.asked.setdefault(id(request), []).append(count)
        return super().ask(request, count, deadline_s)


def generations() -> list[Generation]:
    return [make_generation([first], 12, max_draft_tokens=2) for first in FIRST_IDS]


async def serve(speculator: Speculator, workers_ready: int = 0) -> None:
    """Run three requests, which arrive together, in a loop of their own."""
    async with FakeRank() as rank:
        settings = GatewaySettings(model=Path("unused"), ranks=(rank.address,), max_tokens_per_frame=1)
        health = HealthBoard()
        groups = FixedGroup(settings.ranks, CHECKPOINT_HASH, settings.step_timeout_s)
        loop = StepLoop(settings, groups, health, speculator)
        task = asyncio.create_task(loop.run())
        try:
            await until(lambda: health.serving)
            await until(lambda: speculator.pool is None or speculator.pool.num_ready == workers_ready)
            assert await run_all(loop, *generations()) == [counting(first, 12) for first in FIRST_IDS]
        finally:
            task.cancel()
            await asyncio.wait([task])


def test_a_step_s_cost_is_that_of_all_its_rows() -> None:
    async def test() -> None:
        speculator = Speculator(None, reads_text=False, max_draft_tokens=2)
        speculator._costs = costs = RecordingCosts()
        await serve(speculator)
        assert max(costs.tokens) == len(FIRST_IDS) and set(costs.tokens) <= set(range(1, len(FIRST_IDS) + 1))

    asyncio.run(test())


def test_a_worker_is_not_told_of_many_that_arrive_together() -> None:
    """No draft is allowed, so that whoever is told of was told before it drafted."""

    async def test(told_of: int, learned_share: float) -> None:
        async with FakeDraft() as worker:
            speculator = Speculator(DraftPool([worker.address], TARGET), reads_text=False, max_draft_tokens=0)
            for _ in range(100):
                speculator._worker_use.observe(len(FIRST_IDS), learned_share)
            await serve(speculator, workers_ready=1)
            # The last of a batch may be alone for a while; none of these is.
            assert sum(len(batch.opens) for batch in worker.batches) == told_of

    asyncio.run(test(0, 0.0))
    asyncio.run(test(len(FIRST_IDS), 1.0))


def test_a_worker_that_was_asked_is_not_told_anew() -> None:
    """To tell it would give up the answer that is on its way."""

    async def test() -> None:
        async with FakeDraft() as worker:
            pool = RecordingPool([worker.address], TARGET)
            speculator = Speculator(pool, reads_text=False, max_draft_tokens=2, fixed=True)
            for _ in range(7):
                speculator._worker_use.observe(len(FIRST_IDS), 0.0)  # none is told as it arrives; soon all would
            await serve(speculator, workers_ready=1)
            assert speculator._worker_use.pays(len(FIRST_IDS)) and len(pool.asked) == len(FIRST_IDS)
            assert all(lengths and 0 not in lengths for lengths in pool.asked.values())

    asyncio.run(test())
