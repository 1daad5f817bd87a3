"""Draft workers that know what the target will draw, and hide it among all that could be wrong."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial

from common.arrays import F32, I32, to_wire
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.drafting import ids_of
from tests.support.fake_draft import FakeDraft

START_TIMEOUT_S = 30.0
CONTEXT_LENGTH = 4096
# One deck of kinds. What counts as a miss stays rare enough that the gateway goes on asking.
NUM_OF_KIND = {
    "right": 9,
    "right at first": 9,
    "random": 6,
    "twice": 6,
    "after an older one": 6,
    "out of range": 1,
    "negative": 1,
    "stale length": 1,
    "other text": 1,
    "garbage epoch": 1,
    "garbage round": 1,
    "too many": 1,
    "not a number": 1,
    "no outcome": 1,
    "forgotten": 1,
    "gap": 1,
}
NUM_CARDS = sum(NUM_OF_KIND.values())


class Adversary:
    """What fake workers send. `texts` are whole texts as the target draws them, prompt and answer."""

    def __init__(self, texts: Sequence[Sequence[int]], vocabulary_size: int) -> None:
        self._texts, self._vocabulary_size = [list(text) for text in texts], vocabulary_size
        self._random = random.Random(0)
        self._deck: list[str] = []
        self._older: list[pb.Proposal] = []
        self.sent: Counter[str] = Counter()  # by kind

    async def answer(self, worker: FakeDraft, proposal: pb.Proposal) -> list[pb.Proposal]:
        """Return what is sent instead of an honest proposal."""
        if proposal.outcome != pb.OUTCOME_PROPOSED:
            return [proposal]
        if not self._deck:
            self._deck = self._random.sample(list(NUM_OF_KIND), NUM_CARDS, counts=list(NUM_OF_KIND.values()))
        kind = self._deck.pop()
        self.sent[kind] += 1
        count = len(ids_of(proposal))
        ids = self._truth(worker.ids(proposal.request), count)
        if kind == "right at first":
            ids[self._random.randrange(count) :] = [self._random.randrange(self._vocabulary_size)]
        self._fill(proposal, ids)
        self._older.append(_copy(proposal))
        return self._spoilt(kind, proposal, ids)

    def _truth(self, known: list[int], count: int) -> list[int]:
        """Return what the target draws next where that is known, else anything."""
        ids = [self._random.randrange(self._vocabulary_size) for _ in range(count)]
        for text in self._texts:
            if text[: len(known)] == known:
                following = text[len(known) :][:count]
                ids[: len(following)] = following
        return ids

    def _spoilt(self, kind: str, proposal: pb.Proposal, ids: list[int]) -> list[pb.Proposal]:
        place = self._random.randrange(len(ids))
        match kind:
            case "random":
                self._fill(proposal, [self._random.randrange(self._vocabulary_size) for _ in ids])
            case "twice":
                other = _copy(proposal)
                self._fill(other, ids[::-1])
                return [proposal, other, proposal]
            case "after an older one":
                return [*self._random.sample(self._older, min(3, len(self._older))), proposal]
            case "out of range" | "negative":
                ids[place] = self._vocabulary_size if kind == "out of range" else -1
                self._fill(proposal, ids)
            case "stale length":
                proposal.base_length -= self._random.randint(1, 3)
            case "other text":
                proposal.prefix_hash ^= 1
            case "garbage epoch":
                proposal.epoch = self._random.getrandbits(32)
            case "garbage round":
                proposal.round = self._random.getrandbits(32)
            case "too many":
                self._fill(proposal, ids * 20)
            case "not a number":
                proposal.probabilities = to_wire([float("nan")] * len(ids), F32)
            case "no outcome":
                proposal.outcome = pb.OUTCOME_UNSPECIFIED
            case "forgotten":
                proposal.outcome = pb.OUTCOME_UNKNOWN
            case "gap":
                proposal.outcome, proposal.known_length = pb.OUTCOME_GAP, self._random.getrandbits(32)
        return [proposal]

    def _fill(self, proposal: pb.Proposal, ids: Sequence[int]) -> None:
        proposal.ids = to_wire(ids, I32)
        proposal.probabilities = to_wire([0.9] * len(ids), F32)


def _copy(proposal: pb.Proposal) -> pb.Proposal:
    return pb.Proposal.FromString(proposal.SerializeToString())


@contextmanager
def hosted(adversary: Adversary, count: int) -> Iterator[list[str]]:
    """Serve as many workers of an adversary, from an event loop on a thread of their own; yields their addresses."""
    workers = [FakeDraft(vocabulary_hash="", vocabulary_size=0, context_length=CONTEXT_LENGTH) for _ in range(count)]
    ready, done, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            for worker in workers:
                worker.tamper = partial(adversary.answer, worker)
                await stack.enter_async_context(worker)
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(START_TIMEOUT_S)
        yield [worker.address for worker in workers]
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()
