"""A draft worker without a model, in this process: it speaks the draft stream over a real connection, and may err.

After token t it proposes (t + 1) % V, (t + 2) % V, ... It holds what it is told by the rules of the contract.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np

from common.arrays import F32, I32, from_wire, to_wire
from common.channel import INTERNAL_MESSAGE_BYTES, server_options
from common.draft_protocol import PROTOCOL_VERSION, prefix_hash
from common.errors import Refused
from common.status import translated
from gateway.speculation.draft_stream import TargetIdentity
from tandem.draft.v1 import draft_service_pb2 as pb

VOCABULARY = 32
TARGET = TargetIdentity(vocabulary_hash="5eed", vocabulary_size=VOCABULARY, checkpoint_hash="c0ffee")

# A list of proposals is sent as one message, bytes as they are.
Tamper = Callable[[pb.Proposal], Awaitable[Sequence[pb.Proposal | bytes]]]


async def honest(proposal: pb.Proposal) -> list[pb.Proposal]:
    """Propose what the fake model thinks."""
    return [proposal]


async def silent(proposal: pb.Proposal) -> list[pb.Proposal]:
    """Answer nothing."""
    return []


def always(outcome: "pb.Outcome", **fields: Any) -> Tamper:
    """Answer every ask with this outcome."""

    async def tamper(proposal: pb.Proposal) -> list[pb.Proposal]:
        names = {"request": proposal.request, "epoch": proposal.epoch, "round": proposal.round}
        return [pb.Proposal(**(names | {"outcome": outcome} | fields))]

    return tamper


class FakeDraft:
    """`tamper` sees every proposal before it is sent and says what is sent instead. Use as an async context manager."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1", **info: Any) -> None:
        fields: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "proposer": "model",
            "name": "fake",
            "vocabulary_hash": TARGET.vocabulary_hash,
            "vocabulary_size": VOCABULARY,
            "context_length": 1000,
            "max_requests": 1000,
        }
        self.info = pb.GetInfoResponse(**(fields | info))
        self.load = pb.Load()
        self.tamper: Tamper = honest
        self.reads = True
        self.attaches: list[pb.Attach] = []
        self.batches: list[pb.Batch] = []  # those that are not empty
        self.texts: dict[int, tuple[int, list[int]]] = {}  # request: epoch and ids, of all streams
        self.address = ""
        self._listen = f"{host}:{port}"
        self._host = host
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> "FakeDraft":
        self._server = grpc.aio.server(options=server_options(INTERNAL_MESSAGE_BYTES))
        handler: Any = grpc.stream_stream_rpc_method_handler(
            self._propose, request_deserializer=pb.ProposeRequest.FromString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tandem.draft.v1.DraftService", {"Propose": handler}),)
        )
        self.address = f"{self._host}:{self._server.add_insecure_port(self._listen)}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.crash()

    async def crash(self) -> None:
        """End all streams and stop listening."""
        assert self._server is not None
        await self._server.stop(0)

    def ids(self, request: int) -> list[int]:
        """Return what is known of a request."""
        return self.texts[request][1]

    @translated
    async def _propose(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        first = await anext(requests)
        self.attaches.append(first.attach)
        yield pb.ProposeResponse(attached=self.info).SerializeToString()
        if not self.reads:
            await asyncio.Event().wait()  # until the stream is cancelled
        async for request in requests:
            batch = request.batch
            if batch.ByteSize():
                self.batches.append(batch)
            answers = list[pb.Proposal]()
            for proposal in self._apply(batch):
                for answer in await self.tamper(proposal):
                    if isinstance(answer, bytes):
                        yield answer
                    else:
                        answers.append(answer)
            yield pb.ProposeResponse(answers=pb.Answers(proposals=answers, load=self.load)).SerializeToString()

    def _apply(self, batch: pb.Batch) -> list[pb.Proposal]:
        for opening in batch.opens:
            if opening.epoch <= self.texts.get(opening.request, (0, []))[0]:
                raise Refused("BAD_MESSAGE", "the epoch of an open must be above those before")
            self.texts[opening.request] = (opening.epoch, _ids(opening.ids))
        proposals = [self._commit(commit) for commit in batch.commits]
        for closing in batch.closes:
            if self.texts.get(closing.request, (0, []))[0] == closing.epoch:
                del self.texts[closing.request]
        return [proposal for commit, proposal in zip(batch.commits, proposals, strict=True) if commit.count]

    def _commit(self, commit: pb.Commit) -> pb.Proposal:
        proposal = pb.Proposal(request=commit.request, epoch=commit.epoch, round=commit.round)
        epoch, ids = self.texts.get(commit.request, (0, []))
        if epoch != commit.epoch:
            proposal.outcome = pb.OUTCOME_UNKNOWN
        elif commit.base_length > len(ids):
            proposal.outcome, proposal.known_length = pb.OUTCOME_GAP, len(ids)
        else:
            ids[commit.base_length :] = _ids(commit.ids)
            proposal.outcome, proposal.base_length = pb.OUTCOME_PROPOSED, len(ids)
            proposal.prefix_hash = prefix_hash(np.array(ids, np.int32))
            proposal.ids = to_wire([(ids[-1] + 1 + n) % VOCABULARY for n in range(commit.count)], I32)
            proposal.probabilities = to_wire([0.5] * commit.count, F32)
        return proposal


def _ids(data: bytes) -> list[int]:
    ids: list[int] = from_wire(data, I32, (-1,), "ids").tolist()
    return ids
