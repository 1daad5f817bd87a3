"""A target to draft for, and a proposer to drive, both inside this process."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.arrays import I32, from_wire, to_wire
from draft_worker.desk import Desk
from draft_worker.load import load_proposer
from draft_worker.messages import read_events
from draft_worker.settings import DraftSettings
from tandem.draft.v1 import draft_service_pb2 as pb
from tandem.shard.v1 import shard_service_pb2 as shard_pb
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, make_plan, merged_greedy

GREEDY = pb.Sampling()


class Target:
    """Draws tokens one by one, with an engine of one rank that answers one request at a time."""

    def __init__(self, ranks: LocalRanks) -> None:
        self._ranks = ranks

    def draw(
        self, ids: Sequence[int], sampling: pb.Sampling, count: int, prompt_length: int | None = None
    ) -> list[int]:
        """Return the `count` tokens that the target draws after `ids`, all prompt unless its length is given."""
        for engine in self._ranks.engines:
            engine.reset()
        blocks = range(self._ranks.info.num_blocks)
        rows, opens, drawn = list(ids), [_open(ids, sampling, prompt_length)], list[int]()
        base_length = 0
        for _ in range(count):
            row = PlanRow(1, base_length, rows, blocks, sampled=1)
            drawn += merged_greedy(self._ranks.run(make_plan([row], opens)))
            base_length, rows, opens = base_length + len(rows), drawn[-1:], []
        return drawn


def _open(ids: Sequence[int], sampling: pb.Sampling, prompt_length: int | None) -> shard_pb.SequenceOpen:
    return shard_pb.SequenceOpen(
        sequence=1,
        seed=sampling.seed,
        temperature=sampling.temperature,
        repetition_penalty=sampling.repetition_penalty or 1.0,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        bias_ids=sampling.bias_ids,
        bias_values=sampling.bias_values,
        prompt_length=len(ids) if prompt_length is None else prompt_length,
        history=to_wire(ids, I32),
    )


def draft_settings(model: Path | None, **settings: Any) -> DraftSettings:
    """Return settings for a tiny model: float32, one thread, a small cache."""
    defaults: dict[str, Any] = {"model": model, "dtype": "float32", "threads": 1, "kv_cache_tokens": 4096}
    return DraftSettings(**(defaults | settings))


class Driver:
    """One gateway's end of a desk, without a stream between: what is told is applied at once."""

    def __init__(self, settings: DraftSettings) -> None:
        self.proposer = load_proposer(settings)
        self.desk = Desk(self.proposer, settings.max_requests, settings.max_count)

    def tell(
        self,
        opens: Sequence[pb.Open] = (),
        commits: Sequence[pb.Commit] = (),
        closes: Sequence[pb.Close] = (),
        session: int = 1,
        target_hash: str = "",
    ) -> list[pb.Proposal]:
        """Apply a batch and return what is answered at once."""
        batch = pb.Batch(opens=opens, commits=commits, closes=closes)
        events = read_events(batch, time.perf_counter_ns(), self.proposer.about.vocabulary_size)
        return [proposal for _, proposal in self.desk.take(session, target_hash, events) if proposal is not None]

    def work(self) -> list[pb.Proposal] | None:
        """Let the proposer work once; None where there was nothing to do."""
        drafts = self.proposer.work()
        if drafts is None:
            return None
        return [proposal for _, proposal in self.desk.answers(drafts) if proposal is not None]

    def finish(self) -> list[pb.Proposal]:
        """Work until nothing waits, and return all answers."""
        answers = list[pb.Proposal]()
        while self.proposer.waiting:
            answers += self.work() or []
        return answers

    def idle(self, max_steps: int = 10_000) -> None:
        """Let the proposer work ahead as far as it likes, or so many steps."""
        for _ in range(max_steps):
            if self.work() is None:
                return


def open_(request: int, ids: Sequence[int], sampling: pb.Sampling = GREEDY, epoch: int = 1) -> pb.Open:
    """Return an Open whose ids are all prompt."""
    return pb.Open(request=request, epoch=epoch, ids=to_wire(ids, I32), prompt_length=len(ids), sampling=sampling)


def commit(request: int, round_: int, base_length: int, ids: Sequence[int] = (), count: int = 4, **fields: Any) -> Any:
    """Return a Commit of epoch 1, or with some fields changed."""
    values = {"request": request, "epoch": 1, "round": round_, "base_length": base_length, "count": count} | fields
    return pb.Commit(ids=to_wire(ids, I32), **values)


def ids_of(proposal: pb.Proposal) -> list[int]:
    """Return the proposed ids."""
    ids: list[int] = from_wire(proposal.ids, I32, (-1,), "ids").tolist()
    return ids


def biased(**fields: Any) -> pb.Sampling:
    """Return sampling parameters with some biases among them."""
    return pb.Sampling(bias_ids=to_wire([5, 9], I32), bias_values=np.array([3.0, -8.0], "<f4").tobytes(), **fields)
