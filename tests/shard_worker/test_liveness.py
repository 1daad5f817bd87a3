"""A torch thread that is stuck, seen by whoever asks for the rank's liveness."""

import asyncio
import threading

from common.progress import Progress
from shard_worker.service import ShardService
from tests.support.fake_loop import until


def test_a_stuck_torch_thread_is_noticed() -> None:
    async def run() -> None:
        release, progress = threading.Event(), Progress(timeout_s=0.1)
        service = ShardService(on_failure=lambda error: None, progress=progress)
        assert not progress.stalled
        step = asyncio.create_task(service._on_torch_thread(release.wait))
        await until(lambda: progress.stalled)
        release.set()
        assert await step
        await until(lambda: not progress.stalled)
        assert service.close()

    asyncio.run(run())
