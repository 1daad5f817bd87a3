"""The draft stream: who may ask, and in which form. What is proposed is the proposer's."""

import asyncio
import itertools
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial

import grpc

from common.draft_protocol import PROTOCOL_VERSION
from common.errors import Refused, Unavailable
from common.progress import Progress
from common.status import translated
from common.telemetry.tracer import OFF, Tracer
from draft_worker.desk import Answer, Desk
from draft_worker.loop import DraftLoop
from draft_worker.messages import Events, read_events
from draft_worker.metrics import DraftMetrics
from draft_worker.proposer import About, Proposer
from draft_worker.request_spans import RequestSpans
from draft_worker.session import Session
from tandem.draft.v1 import draft_service_pb2 as pb
from tandem.draft.v1 import draft_service_pb2_grpc

MakeProposer = Callable[[], Proposer]
Requests = AsyncIterator[pb.ProposeRequest]
# Stands for this service where it asks for the load itself; gateways' sessions count from 1.
OURSELVES = 0


class DraftService(draft_service_pb2_grpc.DraftServiceServicer):
    """Answers any number of gateways, each on a stream of its own."""

    def __init__(
        self,
        max_requests: int,
        max_count: int,
        on_failure: Callable[[BaseException], None],
        progress: Progress | None = None,
        metrics: DraftMetrics | None = None,
        tracer: Tracer = OFF,
    ) -> None:
        """To be made on the event loop. `on_failure` is called there with what ended the drafting thread."""
        self._max_requests, self._max_count = max_requests, max_count
        self._metrics, self._tracer = metrics, tracer
        self._events = asyncio.get_running_loop()
        progress = progress or Progress(math.inf)
        self._loop = DraftLoop(self._deliver, lambda error: self._on_events(on_failure, error), progress)
        self._sessions: dict[int, Session] = {}
        self._numbers = itertools.count(1)
        self._about: About | None = None
        self._drained = asyncio.Event()
        self._load_waits: list[asyncio.Future[pb.Load]] = []

    async def load(self, make_proposer: MakeProposer) -> About:
        """Make the proposer on its thread; until it is there, calls are answered UNAVAILABLE."""
        ready: asyncio.Future[About] = self._events.create_future()

        def make() -> tuple[Desk, Proposer]:
            proposer = make_proposer()
            desk = Desk(proposer, self._max_requests, self._max_count)
            if self._metrics is not None:
                self._metrics.watch(desk)
            return desk, proposer

        def tell(about: About) -> None:
            if not ready.done():  # nobody waits any more where the process was stopped meanwhile
                ready.set_result(about)

        def on_ready(proposer: Proposer) -> None:
            self._on_events(tell, proposer.about)

        self._loop.start(make, on_ready)
        self._about = await ready
        if self._metrics is not None:
            self._metrics.loaded(self._about)
        return self._about

    async def drain(self) -> None:
        """Refuse new commits and tell all gateways; return when nothing waits for an answer."""

        def refuse(desk: Desk) -> list[Answer]:
            desk.draining = True
            return [Answer(number, None) for number in (OURSELVES, *list(self._sessions))]

        if self._about is None:
            return
        self._loop.post(refuse)
        await self._drained.wait()

    def close(self) -> bool:
        """End the thread; False when it does not answer. To be called when no stream is left."""
        return self._loop.stop()

    @translated
    async def GetInfo(
        self, request: pb.GetInfoRequest, context: grpc.aio.ServicerContext[pb.GetInfoRequest, pb.GetInfoResponse]
    ) -> pb.GetInfoResponse:
        """Describe this worker and its load."""
        return await self._info()

    @translated
    async def Propose(
        self, request_iterator: Requests, context: grpc.aio.ServicerContext[pb.ProposeRequest, pb.ProposeResponse]
    ) -> AsyncIterator[pb.ProposeResponse]:
        """Serve one gateway until it ends the stream or breaks its rules."""
        first = await anext(request_iterator, None)
        if first is None:
            return
        self._check(first)
        info = await self._info()
        session = Session(next(self._numbers), first.attach.target_hash, RequestSpans(self._tracer))
        self._sessions[session.number] = session
        reader = asyncio.create_task(self._read(request_iterator, session))
        try:
            yield pb.ProposeResponse(attached=info)
            async for answers in session.answers():
                yield pb.ProposeResponse(answers=answers)
            await reader  # raises what ended it
        finally:
            reader.cancel()
            session.spans.lose()
            del self._sessions[session.number]
            self._loop.post(lambda desk: desk.end(session.number))

    async def _read(self, requests: Requests, session: Session) -> None:
        """Post the batches of a stream; whatever ends it ends the session."""
        assert self._about is not None
        try:
            async for request in requests:
                read_ns = time.perf_counter_ns()
                if request.WhichOneof("message") != "batch":
                    raise Refused("BAD_MESSAGE", "after its attach a stream carries batches only")
                events = read_events(request.batch, read_ns, self._about.vocabulary_size)
                session.spans.heard(request.batch, read_ns)
                await session.room.acquire()
                self._loop.post(partial(self._take, session, events))
        finally:
            session.end()

    def _take(self, session: Session, events: Events, desk: Desk) -> list[Answer]:
        """Apply a batch, on the drafting thread."""
        answers = desk.take(session.number, session.target_hash, events)
        self._on_events(session.room.release)
        return answers

    def _check(self, request: pb.ProposeRequest) -> None:
        """Raise Refused unless this attaches a gateway whose vocabulary is the draft's, Unavailable while loading."""
        if request.WhichOneof("message") != "attach":
            raise Refused("BAD_MESSAGE", "the first message of a draft stream must be attach")
        attach = request.attach
        if attach.protocol_version != PROTOCOL_VERSION:
            raise Refused("WRONG_PROTOCOL_VERSION", f"this draft worker speaks version {PROTOCOL_VERSION}")
        about = self._known()
        ours, theirs = (about.vocabulary_hash, about.vocabulary_size), (attach.vocabulary_hash, attach.vocabulary_size)
        if about.vocabulary_hash and ours != theirs:
            raise Refused(
                "WRONG_VOCABULARY",
                f"the draft {about.name} has another vocabulary than the target: {ours[1]} ids, tokenizer "
                f"{ours[0][:12]}; the target has {theirs[1]} and {theirs[0][:12]}",
            )

    def _known(self) -> About:
        if self._about is None:
            raise Unavailable("the draft is still being loaded")
        return self._about

    async def _info(self) -> pb.GetInfoResponse:
        about = self._known()
        return pb.GetInfoResponse(
            protocol_version=PROTOCOL_VERSION,
            proposer=about.proposer,
            name=about.name,
            vocabulary_hash=about.vocabulary_hash,
            vocabulary_size=about.vocabulary_size,
            context_length=about.context_length,
            max_count=self._max_count,
            max_requests=self._max_requests,
            kv_cache_tokens=about.kv_cache_tokens,
            load=await self._load(),
        )

    async def _load(self) -> pb.Load:
        """Return the load as the drafting thread sees it; that takes a step at most."""
        answer: asyncio.Future[pb.Load] = self._events.create_future()
        self._load_waits.append(answer)
        self._loop.post(lambda desk: [Answer(OURSELVES, None)])
        return await answer

    def _deliver(self, answers: list[Answer], load: pb.Load) -> None:
        """Hand answers over to the event loop. Called on the drafting thread."""
        self._on_events(self._hand_out, answers, load)

    def _hand_out(self, answers: list[Answer], load: pb.Load) -> None:
        if self._metrics is not None:
            self._metrics.answered(answers, load)
        proposals = defaultdict[int, list[pb.Proposal]](list)
        for number, proposal in answers:
            proposals[number] += [proposal] if proposal is not None else []
        for number, theirs in proposals.items():
            if session := self._sessions.get(number):
                session.put(theirs, load)
                session.spans.answered(theirs)
        if load.draining and not load.waiting:
            self._drained.set()
        if OURSELVES in proposals:
            waits, self._load_waits = self._load_waits, []
            for wait in waits:
                if not wait.done():
                    wait.set_result(load)

    def _on_events(self, call: Callable[..., object], *arguments: object) -> None:
        """Have the event loop make a call; nothing where it is closed, which ends the process's serving anyway."""
        with suppress(RuntimeError):
            self._events.call_soon_threadsafe(call, *arguments)
