"""Draft workers that come and go behind a Service, under load: no stream changes, and who is leaving is left alone."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from common.health import HealthBoard
from gateway.discovery.discovery import Discovery
from gateway.rank_groups import FixedGroup
from gateway.settings import GatewaySettings
from gateway.speculation.draft_pool import DraftPool
from gateway.speculation.speculator import Speculator
from gateway.step_loop import StepLoop
from tests.support.fake_draft import TARGET, FakeDraft
from tests.support.fake_kubernetes import FakeKubernetes, pod
from tests.support.fake_loop import make_generation, read_ids, until
from tests.support.fake_rank import CHECKPOINT_HASH, FakeRank

USED_WITHIN_S = 2.0
NUM_TOKENS = 18  # three streams fit the fake rank, and none reaches the id it cannot bear


class Load:
    """Streams that start one after the other, a few at a time, until the load is ended; all must be as alone."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self._ended = False
        self.num_streams = 0

    async def run(self, first_id: int) -> None:
        while not self._ended:
            generation = make_generation([first_id], NUM_TOKENS, max_draft_tokens=4)
            self._loop.submit(generation)
            ids = await read_ids(generation)
            self._loop.cancel(generation)
            assert ids == [(first_id + 1 + index) % 32 for index in range(NUM_TOKENS)]
            self.num_streams += 1

    def end(self) -> None:
        self._ended = True


@asynccontextmanager
async def workers(count: int) -> AsyncIterator[list[FakeDraft]]:
    """Serve `count` workers, each at an address of its own and all at one port, as pods are."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(FakeDraft())
        port = int(first.address.rpartition(":")[2])
        others = [FakeDraft(port=port, host=f"127.0.0.{number}") for number in range(2, count + 1)]
        yield [first, *[await stack.enter_async_context(worker) for worker in others]]


def events(workers: Sequence[FakeDraft]) -> int:
    """How many opens and commits workers have been told."""
    return sum(len(batch.opens) + len(batch.commits) for worker in workers for batch in worker.batches)


async def until_used(*used: FakeDraft) -> None:
    """Wait until each of them is told something new, and see that it does not take long."""
    began_s, before = time.monotonic(), [events([worker]) for worker in used]
    await until(lambda: all(events([worker]) > count for worker, count in zip(used, before, strict=True)))
    assert time.monotonic() - began_s < USED_WITHIN_S


def test_drafts_are_scaled_from_one_to_three_to_none_to_two(tmp_path: Path) -> None:
    async def test() -> None:
        with FakeKubernetes(tmp_path) as api:
            async with workers(5) as (a, b, c, d, e), FakeRank() as rank:
                port = int(a.address.rpartition(":")[2])

                def scale(*running: FakeDraft, ending: Sequence[FakeDraft] = ()) -> None:
                    pods = [pod(w.address, w.address.partition(":")[0]) for w in running]
                    pods += [pod(w.address, w.address.partition(":")[0], terminating=True) for w in ending]
                    api.set("drafts", pods, port)

                settings = GatewaySettings(model=Path("unused"), ranks=(rank.address,))
                pool = DraftPool((), TARGET)
                discovery = Discovery(["k8s:///llm/drafts:grpc"], api.url, api.credentials)
                speculator = Speculator(pool, reads_text=False, max_draft_tokens=4, fixed=True)
                health = HealthBoard()
                groups = FixedGroup(settings.ranks, CHECKPOINT_HASH, settings.step_timeout_s)
                loop = StepLoop(settings, groups, health, speculator)
                scale(a)
                async with asyncio.TaskGroup() as group:
                    background = [
                        group.create_task(loop.run()),
                        group.create_task(discovery.run(pool.set_endpoints)),
                    ]
                    await until(lambda: health.serving)
                    load = Load(loop)
                    streams = [group.create_task(load.run(first_id)) for first_id in (14, 18, 22)]
                    await until_used(a)
                    scale(a, b, c)
                    await until_used(b, c)
                    scale(ending=[a, b, c])  # they stay for a while, and still serve whoever asks
                    await until(lambda: pool.num_ready == 0)
                    told, streams_before = events([a, b, c]), load.num_streams
                    await until(lambda: load.num_streams > streams_before + 6)
                    scale()
                    scale(d, e, ending=[a])
                    await until_used(d, e)
                    assert events([a, b, c]) == told
                    load.end()
                    await asyncio.gather(*streams)
                    for task in background:
                        task.cancel()

    asyncio.run(test())
