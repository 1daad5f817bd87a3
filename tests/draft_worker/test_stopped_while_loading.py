"""A draft worker that is stopped while its model is loaded says nothing of it."""

import asyncio
import threading
from typing import Any

from draft_worker.ngram_proposer import NgramProposer
from draft_worker.service import DraftService


def test_a_load_that_nobody_waits_for_ends_in_silence() -> None:
    async def run() -> list[dict[str, Any]]:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        service = DraftService(8, 8, lambda error: None)
        loading, may_go_on = threading.Event(), threading.Event()

        def make() -> NgramProposer:
            loading.set()
            may_go_on.wait(30)
            return NgramProposer()

        load = asyncio.create_task(service.load(make))
        await asyncio.to_thread(loading.wait, 30)
        load.cancel()
        await asyncio.wait([load])
        may_go_on.set()
        assert service.close()  # the thread is through with it
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return complaints

    assert asyncio.run(run()) == []
