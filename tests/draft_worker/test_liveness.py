"""A drafting thread that is stuck, seen by whoever asks for the worker's liveness."""

import asyncio
import threading
from typing import Any, cast

from common.progress import Progress
from draft_worker.loop import DraftLoop
from tests.support.fake_loop import until


def test_a_stuck_drafting_thread_is_noticed() -> None:
    async def run() -> None:
        release, progress = threading.Event(), Progress(timeout_s=0.1)
        failures = list[BaseException]()

        def stuck(desk: Any) -> list[Any]:
            release.wait()
            return []

        loop = DraftLoop(lambda answers, load: None, failures.append, progress)
        loop.start(lambda: cast(Any, (_Desk(), _Proposer())), lambda proposer: None)
        await asyncio.sleep(0.3)
        assert not progress.stalled, "no work"
        loop.post(stuck)
        await until(lambda: progress.stalled)
        release.set()
        await until(lambda: not progress.stalled)
        assert loop.stop() and not failures

    asyncio.run(run())


class _Desk:
    def answers(self, drafts: Any) -> list[Any]:
        return []


class _Proposer:
    waiting = 0

    def work(self) -> None:
        return None
