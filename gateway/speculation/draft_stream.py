"""One attached draft stream: what goes out is gathered and written as one batch, what comes in is handed on."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2

from common.channel import INTERNAL_MESSAGE_BYTES
from common.draft_protocol import PROTOCOL_VERSION
from common.errors import Refused, TandemError, Unavailable
from common.status import read_error, read_status
from gateway.speculation.breaker import Breaker
from tandem.draft.v1 import draft_service_pb2 as pb

# What a worker that does not read may keep waiting here.
MAX_UNSENT_BATCHES = 4096
MAX_UNSENT_BYTES = INTERNAL_MESSAGE_BYTES // 8
WRITE_TIMEOUT_S = 1.0
# So long after the last message an empty one asks for the load.
LOAD_EVERY_S = 1.0
# A worker that is heard of again after so long was stopped, not slow: it answers at least for the load.
SILENCE_NS = 1_500_000_000
REFUSALS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)


@dataclass(frozen=True, slots=True)
class TargetIdentity:
    """What drafts are for: the hashes are SHA-256 in hex, of the tokenizer's file and of the checkpoint's manifest."""

    vocabulary_hash: str
    vocabulary_size: int
    checkpoint_hash: str


class DraftStream:
    """One worker for as long as its stream lasts. Nothing here ever waits for the worker but `attach` and `run`."""

    def __init__(self, call: Any, info: pb.GetInfoResponse, breaker: Breaker) -> None:
        self._call = call
        self.info, self.breaker = info, breaker
        self.load = info.load  # as last told
        self.is_draining = info.load.draining
        self.ended = False
        self.num_requests = 0  # ours that are at home here
        self.num_awaited = 0  # answers that we wait for
        self._unsent = pb.Batch()
        self._num_unsent = self._unsent_bytes = 0
        self._something_unsent = asyncio.Event()

    @classmethod
    async def attach(cls, call: Any, target: TargetIdentity, breaker: Breaker) -> "DraftStream":
        """Introduce the gateway on a new call and check who answers.

        Raises Refused where the two do not fit together, Unavailable where nobody answers.
        """
        attach = pb.Attach(
            protocol_version=PROTOCOL_VERSION,
            vocabulary_hash=target.vocabulary_hash,
            vocabulary_size=target.vocabulary_size,
            target_hash=target.checkpoint_hash,
        )
        await _write(call, pb.ProposeRequest(attach=attach))
        answer = await _read(call)
        if answer.WhichOneof("message") != "attached":
            raise Refused("BAD_MESSAGE", "its first message is not attached")
        _check(answer.attached, target)
        return cls(call, answer.attached, breaker)

    @property
    def source(self) -> str:
        """The draft's name, for people."""
        return (self.info.name or self.info.proposer)[:100]

    @property
    def is_usable(self) -> bool:
        """Whether the worker is there and takes commits."""
        return not (self.ended or self.is_draining)

    @property
    def busyness(self) -> tuple[int, int]:
        """How loaded the worker is, as it told and as we know: proposals asked for, then requests."""
        return self.load.waiting + self.num_awaited, max(self.load.open_requests, self.num_requests)

    def tell(
        self, opens: Iterable[pb.Open] = (), commits: Iterable[pb.Commit] = (), closes: Iterable[pb.Close] = ()
    ) -> bool:
        """Have events sent, with whatever else is told before the next write; False where no more can wait."""
        if self.ended or self._num_unsent >= MAX_UNSENT_BATCHES or self._unsent_bytes >= MAX_UNSENT_BYTES:
            return False
        batch = pb.Batch(opens=opens, commits=commits, closes=closes)
        self._unsent.MergeFrom(batch)
        self._num_unsent += 1
        self._unsent_bytes += batch.ByteSize()
        self._something_unsent.set()
        return True

    async def run(self, on_proposals: Callable[["DraftStream", Iterable[pb.Proposal]], None]) -> None:
        """Write and read until the stream ends, then raise why: Unavailable or Refused."""
        reader = asyncio.create_task(self._receive(on_proposals))
        writer = asyncio.create_task(self._send())
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            await reader
        finally:
            self.ended = True
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
            self._call.cancel()

    async def _send(self) -> None:
        """Write what is told, all that waits at once; returns when the call is over. Raises Unavailable."""
        is_open = True
        while is_open:
            try:
                async with asyncio.timeout(LOAD_EVERY_S):
                    await self._something_unsent.wait()
            except TimeoutError:
                pass  # an empty batch is answered with the load
            batch, self._unsent = self._unsent, pb.Batch()
            self._num_unsent = self._unsent_bytes = 0
            self._something_unsent.clear()
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    is_open = await _write(self._call, pb.ProposeRequest(batch=batch))
            except TimeoutError:
                now_ns = time.perf_counter_ns()
                self.breaker.record(False, now_ns, now_ns)
                raise Unavailable(f"it has read nothing for {WRITE_TIMEOUT_S:g} s") from None

    async def _receive(self, on_proposals: Callable[["DraftStream", Iterable[pb.Proposal]], None]) -> None:
        heard_ns = time.perf_counter_ns()
        while True:
            answer = await _read(self._call)
            before_ns, heard_ns = heard_ns, time.perf_counter_ns()
            if heard_ns - before_ns >= SILENCE_NS:
                self.breaker.revive(heard_ns)
            if answer.WhichOneof("message") != "answers":
                raise Refused("BAD_MESSAGE", "after attached it sent something else than answers")
            self.load = answer.answers.load
            self.is_draining |= self.load.draining
            on_proposals(self, answer.answers.proposals)


def _check(info: pb.GetInfoResponse, target: TargetIdentity) -> None:
    if info.protocol_version != PROTOCOL_VERSION:
        raise Refused(
            "WRONG_PROTOCOL_VERSION",
            f"it speaks version {info.protocol_version} of the draft stream, not {PROTOCOL_VERSION}",
        )
    theirs, ours = (info.vocabulary_hash, info.vocabulary_size), (target.vocabulary_hash, target.vocabulary_size)
    if info.vocabulary_hash and theirs != ours:
        raise Refused(
            "WRONG_VOCABULARY",
            f"its vocabulary has {theirs[1]} ids, tokenizer {theirs[0][:12]!r}; the target's has {ours[1]} and "
            f"{ours[0][:12]!r}",
        )


async def _write(call: Any, request: pb.ProposeRequest) -> bool:
    """Write a message; False where the call is over, of which reading tells the reason."""
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
        return False
    return True


async def _read(call: Any) -> pb.ProposeResponse:
    """Return the next message. Raises Unavailable or Refused when the stream ended, Refused when it is none of ours."""
    try:
        data = await call.read()
        if data is not grpc.aio.EOF:
            return pb.ProposeResponse.FromString(data)
    except grpc.aio.AioRpcError as error:
        raise _why(error) from error
    except (grpc.aio.InternalError, asyncio.InvalidStateError) as error:
        raise Unavailable(str(error)) from error
    except DecodeError as error:
        raise Refused("BAD_MESSAGE", "its message cannot be parsed") from error
    raise Unavailable("it ended the stream")


def _why(error: grpc.aio.AioRpcError) -> TandemError:
    if error.code() not in REFUSALS:
        return Unavailable(read_error(error))
    status, info = read_status(error), error_details_pb2.ErrorInfo()
    reasons = [info.reason for detail in (status.details if status else ()) if detail.Unpack(info)]
    return Refused(reasons[0] if reasons else error.code().name, read_error(error))
