"""A draft pool that runs beside fake draft workers, and leaves nothing behind."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from gateway.sampling.params import SamplingParams
from gateway.speculation.draft_pool import DraftPool
from gateway.speculation.draft_request import DraftRequest
from gateway.speculation.drafted import Drafted
from tests.support.fake_draft import TARGET, FakeDraft
from tests.support.fake_loop import until

DEADLINE_S = 2.0


@asynccontextmanager
async def running(addresses: Iterable[str], num_ready: int) -> AsyncIterator[DraftPool]:
    """Run a pool over these addresses, `num_ready` of which are waited for; no task may be left afterwards."""
    before = asyncio.all_tasks()
    pool = DraftPool(addresses, TARGET)
    task = asyncio.create_task(pool.run())
    try:
        await until(lambda: pool.num_ready == num_ready or task.done())
        yield pool
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended
    await asyncio.sleep(0.02)
    left = {task for task in asyncio.all_tasks() - before if "grpc" not in repr(task)}
    assert not left


@asynccontextmanager
async def pooled(*workers: FakeDraft) -> AsyncIterator[DraftPool]:
    """Serve these workers and run a pool over them."""
    async with AsyncExitStack() as stack:
        for worker in workers:
            await stack.enter_async_context(worker)
        yield await stack.enter_async_context(running([worker.address for worker in workers], len(workers)))


def make_request(number: int = 1, ids: Sequence[int] = (3, 4, 5), **params: float) -> DraftRequest:
    """Return a request whose ids are all prompt."""
    return DraftRequest(number, array("i", ids), len(ids), SamplingParams(**params))  # type: ignore[arg-type]


async def draft(
    pool: DraftPool, request: DraftRequest, count: int = 4, deadline_s: float = DEADLINE_S
) -> Drafted | None:
    """Ask, wait and take."""
    assert pool.ask(request, count, deadline_s)
    await pool.wait([request], deadline_s)
    return pool.take(request)
