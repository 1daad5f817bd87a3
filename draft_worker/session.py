"""One gateway's stream as the worker sees it: how much may wait on its way in, and what is dropped on its way out."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from draft_worker.request_spans import RequestSpans
from tandem.draft.v1 import draft_service_pb2 as pb

# Batches that were read and not applied yet; then reading pauses.
MAX_UNAPPLIED_BATCHES = 64
# Proposals that a gateway has not taken; then the oldest are dropped.
MAX_UNSENT_PROPOSALS = 4096


class Session:
    """The worker's end of one stream. All calls come from the event loop."""

    def __init__(self, number: int, target_hash: str, spans: RequestSpans) -> None:
        self.number, self.target_hash, self.spans = number, target_hash, spans
        self.room = asyncio.Semaphore(MAX_UNAPPLIED_BATCHES)
        self._proposals: deque[pb.Proposal] = deque(maxlen=MAX_UNSENT_PROPOSALS)
        self._load: pb.Load | None = None
        self._changed = asyncio.Event()
        self._ended = False

    def put(self, proposals: Iterable[pb.Proposal], load: pb.Load) -> None:
        """Have proposals sent, with the newest load."""
        self._proposals.extend(proposals)
        self._load = load
        self._changed.set()

    def end(self) -> None:
        """Nothing more will be put."""
        self._ended = True
        self._changed.set()

    async def answers(self) -> AsyncIterator[pb.Answers]:
        """Yield what is put, all that waits at once, until the end."""
        while not self._ended:
            await self._changed.wait()
            self._changed.clear()
            if self._load is not None:
                answers = pb.Answers(proposals=self._proposals, load=self._load)
                self._proposals.clear()
                self._load = None
                yield answers
