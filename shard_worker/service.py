"""The step stream on a rank: who may speak, and in which order. What a step computes is `engine.py`'s."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from common.errors import Refused, TandemError, Unavailable
from common.progress import Progress
from common.status import translated
from common.step_protocol import PROTOCOL_VERSION, plan_hash, ran_hash
from common.telemetry.tracer import OFF, Tracer
from shard_worker.engine import Engine
from shard_worker.metrics import RankMetrics
from shard_worker.sequence_spans import SequenceSpans
from tandem.shard.v1 import shard_service_pb2 as pb
from tandem.shard.v1 import shard_service_pb2_grpc

T = TypeVar("T")

# How long a torch thread that nobody waits for any more may take to answer before it counts as hanging.
TORCH_THREAD_GRACE_S = 1.0


@dataclass
class Session:
    """One gateway's hold on this rank."""

    epoch: int
    fence: int
    step: int = 0
    ran_hash: int = 0


class ShardService(shard_service_pb2_grpc.ShardServiceServicer):
    """Answers the gateway that holds the highest fence.

    Torch runs on one thread of its own, so that health and new streams are answered while a step is computed. A step
    that raises ends the rank through `on_failure`: its peers may be waiting in a collective that it left.
    """

    def __init__(
        self,
        on_failure: Callable[[BaseException], None],
        progress: Progress | None = None,
        metrics: RankMetrics | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        self._on_failure = on_failure
        self._progress = progress or Progress(math.inf)
        self._metrics, self._tracer = metrics, tracer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="torch")
        self._engine: Engine | None = None
        self._fence = 0
        self._holder: Session | None = None
        self._free = asyncio.Event()
        self._free.set()
        self._draining = False

    async def load(self, make_engine: Callable[[], Engine]) -> Engine:
        """Build the engine on the torch thread; until it is there, calls are answered UNAVAILABLE."""
        self._engine = await asyncio.get_running_loop().run_in_executor(self._thread, make_engine)
        if self._metrics is not None:
            self._metrics.loaded(self._engine.info)
        return self._engine

    async def drain(self) -> None:
        """Refuse new attaches and tell whoever asks; return once no gateway holds the rank and what was read has run.

        A model that is being loaded is not waited for.
        """
        self._draining = True
        if self._engine is None:
            return
        await self._free.wait()
        await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)

    def close(self) -> bool:
        """Leave the group and return True; return False when the torch thread hangs, in a collective most likely.

        To be called when no stream is left.
        """
        answered, _ = wait([self._thread.submit(lambda: None)], timeout=TORCH_THREAD_GRACE_S)
        self._thread.shutdown(wait=False)
        if answered and self._engine is not None:
            self._engine.close()
        return bool(answered)

    @translated
    async def GetInfo(
        self, request: pb.GetInfoRequest, context: grpc.aio.ServicerContext[pb.GetInfoRequest, pb.GetInfoResponse]
    ) -> pb.GetInfoResponse:
        """Describe this rank."""
        return self._info(self._loaded())

    @translated
    async def Run(
        self,
        request_iterator: AsyncIterator[pb.RunRequest],
        context: grpc.aio.ServicerContext[pb.RunRequest, pb.RunResponse],
    ) -> AsyncIterator[pb.RunResponse]:
        """Answer one gateway's step stream until it ends or breaks a rule."""
        engine = self._loaded()
        spans = SequenceSpans(self._tracer, engine.info.rank, engine.info.world_size)
        try:
            async with aclosing(self._answers(engine, request_iterator, spans)) as answers:
                async for answer in answers:
                    yield answer
        except Exception as error:
            spans.lose(error.reason if isinstance(error, TandemError) else type(error).__name__)
            raise
        finally:
            spans.lose("STREAM_ENDED")

    async def _answers(
        self, engine: Engine, requests: AsyncIterator[pb.RunRequest], spans: SequenceSpans
    ) -> AsyncGenerator[pb.RunResponse, None]:
        session: Session | None = None
        try:
            async for request in requests:
                read_ns = time.perf_counter_ns()
                kind = request.WhichOneof("message")
                if kind == "attach":
                    session = self._attach(engine, request.attach, session)
                    await self._on_torch_thread(engine.reset)
                    yield pb.RunResponse(attached=self._info(engine))
                elif session is None:
                    raise Refused("BAD_PLAN", "the first message of a step stream must be attach")
                elif session.fence < self._fence:
                    raise Refused("STALE_FENCE", "another gateway has taken this rank over")
                elif kind == "frame":
                    plan, result = await self._run(engine, session, request.frame, read_ns)
                    yield pb.RunResponse(result=result)
                    spans.ran(plan, result, read_ns)  # the gateway has its answer: nobody waits for this
                elif kind == "resolve":
                    yield pb.RunResponse(resolved=await self._resolve(engine, session, request.resolve))
                else:
                    raise Refused("BAD_PLAN", "a message without content")
        finally:
            if session is not None and session is self._holder:
                self._holder = None
                self._free.set()

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise Unavailable("the model is still being loaded")
        return self._engine

    def _info(self, engine: Engine) -> pb.GetInfoResponse:
        info = pb.GetInfoResponse(draining=self._draining, held=self._holder is not None)
        info.MergeFrom(engine.info)
        return info

    def _attach(self, engine: Engine, attach: pb.Attach, session: Session | None) -> Session:
        if session is not None:
            raise Refused("BAD_PLAN", "a step stream attaches once")
        if attach.protocol_version != PROTOCOL_VERSION:
            raise Refused("WRONG_PROTOCOL_VERSION", f"this rank speaks version {PROTOCOL_VERSION}")
        if attach.epoch != engine.info.epoch:
            raise Refused("WRONG_EPOCH", f"this group's epoch is {engine.info.epoch}")
        if attach.checkpoint_hash != engine.info.checkpoint_hash:
            raise Refused("WRONG_CHECKPOINT", "gateway and rank were given different checkpoints")
        if self._draining:
            raise Refused("DRAINING", "this rank is about to stop")
        if attach.only_if_free and self._holder is not None:
            raise Refused("HELD", "another gateway holds this rank")
        if attach.fence <= self._fence:
            raise Refused("STALE_FENCE", f"a fence above {self._fence} is needed")
        self._fence = attach.fence
        self._holder = Session(epoch=attach.epoch, fence=attach.fence)
        self._free.clear()
        if self._metrics is not None:
            self._metrics.attached()
        return self._holder

    async def _run(
        self, engine: Engine, session: Session, frame: pb.Frame, read_ns: int
    ) -> tuple[pb.Plan, pb.StepResult]:
        """Return what was run, and what came of it."""
        if frame.epoch != session.epoch:
            raise Refused("WRONG_EPOCH", f"this stream's epoch is {session.epoch}")
        if frame.step != session.step + 1:
            raise Refused("WRONG_STEP", f"step {session.step + 1} was expected, not {frame.step}")
        if frame.plan_hash != plan_hash(frame.epoch, frame.step, frame.plan):
            raise Refused("WRONG_PLAN_HASH", "the plan is not the one that was hashed")
        try:
            plan = pb.Plan.FromString(frame.plan)
        except DecodeError as error:
            raise Refused("BAD_PLAN", "the plan cannot be parsed") from error
        session.step = frame.step
        # Ahead they run at once: that waits for nobody to send the answer.
        result: pb.StepResult = await self._on_torch_thread(lambda: engine.step(plan, read_ns), engine.run_ahead)
        session.ran_hash = ran_hash(session.ran_hash, frame.plan_hash)
        result.epoch, result.step, result.ran_hash = frame.epoch, frame.step, session.ran_hash
        if self._metrics is not None and plan.row_sequences:
            self._metrics.ran(plan, result)
        return plan, result

    async def _resolve(self, engine: Engine, session: Session, resolve: pb.Resolve) -> pb.Resolved:
        if resolve.epoch != session.epoch:
            raise Refused("WRONG_EPOCH", f"this stream's epoch is {session.epoch}")
        if resolve.step != session.step:
            raise Refused("WRONG_STEP", f"only step {session.step} can be resolved")
        resolved: pb.Resolved = await self._on_torch_thread(lambda: engine.resolve(resolve.position))
        resolved.step = resolve.step
        return resolved

    async def _on_torch_thread(self, work: Callable[[], T], then: Callable[[], None] = lambda: None) -> T:
        """Return what `work` returns; `then` follows it on the same thread, and nobody waits for it."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if answer.done():
                return  # nobody waits for it any more
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(cast(T, result))

        def run() -> None:
            if answer.cancelled():
                return
            self._progress.advance()
            try:
                result = work()
            except Exception as error:
                _tell(loop, settle, None, error)
                self._progress.rest()
                return
            _tell(loop, settle, result, None)
            try:
                then()
            except Exception as error:
                _tell(loop, self._on_failure, error)
            self._progress.rest()

        self._thread.submit(run)
        try:
            return await answer
        except Refused:
            raise
        except Exception as error:
            self._on_failure(error)
            raise


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Call back on the loop's thread; nowhere where the process ends and the loop is closed."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)
