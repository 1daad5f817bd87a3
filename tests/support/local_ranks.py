"""A rank group inside this process: one thread a rank, collectives through a barrier. Quick, no sockets."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest import mock

import torch
from torch import Tensor

from shard_worker.engine import Engine
from shard_worker.parallel import RankGroup
from shard_worker.settings import ShardSettings
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.greedy import GreedyDriver

T = TypeVar("T")
BARRIER_TIMEOUT_S = 30.0


class ThreadGroup(RankGroup):
    """One thread's place in a group whose members share `parts` and `barrier`."""

    def __init__(self, rank: int, parts: list[Tensor | None], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(parts), epoch=1)
        self._parts, self._barrier = parts, barrier

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return the sum over ranks, added up in rank order."""
        if self.world_size == 1:
            return part
        self._parts[self.rank] = part.float()
        self._barrier.wait(BARRIER_TIMEOUT_S)
        total = torch.stack([p for p in self._parts if p is not None]).sum(dim=0)
        self._barrier.wait(BARRIER_TIMEOUT_S)
        return total.to(part.dtype)


class LocalRanks:
    """Engines of all ranks of a group, each on a thread of its own. Use as a context manager."""

    def __init__(self, folder: Path, tp: int = 1, **settings: Any) -> None:
        self._threads = ThreadPoolExecutor(max_workers=tp)
        self._barrier = threading.Barrier(tp)
        parts: list[Tensor | None] = [None] * tp
        defaults: dict[str, Any] = {"dtype": "float32", "threads": 1, "kv_cache_tokens": 4096, "block_size_tokens": 16}

        def load(rank: int) -> Engine:
            group = ThreadGroup(rank, parts, self._barrier)
            with mock.patch("shard_worker.engine.form_group", lambda *_: group):
                return Engine.load(ShardSettings(model=folder, rank=rank, tp=tp, **(defaults | settings)))

        self.engines = [load(rank) for rank in range(tp)]

    @property
    def info(self) -> pb.GetInfoResponse:
        """Rank 0's own description."""
        return self.engines[0].info

    def run(self, plan: pb.Plan) -> Sequence[pb.StepResult]:
        """Run a plan on all ranks, and what it lets them run ahead."""
        results = self._all(lambda engine: engine.step(plan, time.perf_counter_ns()))
        self._all(lambda engine: engine.run_ahead())
        return results

    def resolve(self, position: int) -> Sequence[pb.Resolved]:
        """Return all ranks' slices at one sampled position."""
        return self._all(lambda engine: engine.resolve(position))

    def driver(self) -> GreedyDriver:
        """Return a driver of these ranks, which has forgotten all sequences."""
        for engine in self.engines:
            engine.reset()
        return GreedyDriver(self.run, self.resolve, self.info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._threads.shutdown()

    def _all(self, work: Callable[[Engine], T]) -> list[T]:
        if len(self.engines) == 1:
            return [work(self.engines[0])]

        def guarded(engine: Engine) -> T:
            try:
                return work(engine)
            except BaseException:
                self._barrier.abort()  # or the others would wait for us
                raise

        return list(self._threads.map(guarded, self.engines))
