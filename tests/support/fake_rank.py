"""A rank without a model, in this process: it speaks the step stream over a real connection, and may misbehave.

After token t comes token (t + 1) % V, with a logit far above all others. A row that holds the id POISON yields NaN.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np

from common.arrays import F32, I32, U32, from_wire, to_wire
from common.channel import INTERNAL_MESSAGE_BYTES, server_options
from common.step_protocol import PROTOCOL_VERSION, ran_hash
from tandem.shard.v1 import shard_service_pb2 as pb
from tandem.shard.v1 import shard_service_pb2_grpc

VOCABULARY = 32
POISON = 13
CHECKPOINT_HASH = "c0ffee"
BEST_LOGIT = 10.0

Tamper = Callable[[pb.RunResponse], Awaitable[pb.RunResponse | None]]


async def honest(answer: pb.RunResponse) -> pb.RunResponse:
    """Answer truly."""
    return answer


class FakeRank(shard_service_pb2_grpc.ShardServiceServicer):
    """`tamper` sees every answer before it is sent and may change it, delay it, or end the stream with None."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        size = VOCABULARY // world_size
        self.info = pb.GetInfoResponse(
            protocol_version=PROTOCOL_VERSION,
            epoch=7,
            rank=rank,
            world_size=world_size,
            checkpoint_hash=CHECKPOINT_HASH,
            block_size_tokens=4,
            num_blocks=16,
            vocabulary_first=rank * size,
            vocabulary_size=size,
            max_step_tokens=64,
            context_length=64,
            dtype="float32",
        )
        self.tamper: Tamper = honest
        self.plans: list[pb.Plan] = []
        self.fences: list[int] = []
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> "FakeRank":
        self._server = grpc.aio.server(options=server_options(INTERNAL_MESSAGE_BYTES))
        shard_service_pb2_grpc.add_ShardServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        await self._server.stop(0)

    async def GetInfo(self, request: Any, context: Any) -> pb.GetInfoResponse:
        return self.info

    async def Run(self, request_iterator: Any, context: Any) -> AsyncIterator[pb.RunResponse]:
        chain = 0
        async for request in request_iterator:
            if request.HasField("attach"):
                if self.info.draining or (request.attach.only_if_free and self.info.held):
                    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "draining or held")
                self.fences.append(request.attach.fence)
                self.info.held = True
                context.add_done_callback(self._let_go)
                yield pb.RunResponse(attached=self.info)
                continue
            frame = request.frame
            plan = pb.Plan.FromString(frame.plan)
            self.plans.append(plan)
            chain = ran_hash(chain, frame.plan_hash)
            result = self._run(plan)
            result.epoch, result.step, result.ran_hash = frame.epoch, frame.step, chain
            result.queue_ns, result.compute_ns, result.encode_ns = 1, 2, 3
            answer = await self.tamper(pb.RunResponse(result=result))
            if answer is None:
                return
            yield answer

    def _let_go(self, _: object) -> None:
        self.info.held = False

    def _run(self, plan: pb.Plan) -> pb.StepResult:
        count = len(plan.row_sequences) // 4
        lengths = from_wire(plan.row_lengths, U32, (count,), "row_lengths")
        sampled = from_wire(plan.row_sampled, U32, (count,), "row_sampled")
        ids = from_wire(plan.token_ids, I32, (-1,), "token_ids")
        ends = np.cumsum(lengths)
        last = [int(ids[end - n]) for end, wanted in zip(ends, sampled, strict=True) for n in range(wanted, 0, -1)]
        rows = [
            ids[end - n : end] for end, n, wanted in zip(ends, lengths, sampled, strict=True) for _ in range(wanted)
        ]
        logits_PV = np.zeros((len(last), VOCABULARY), np.float32)
        logits_PV[np.arange(len(last)), [(t + 1) % VOCABULARY for t in last]] = BEST_LOGIT
        logits_PV[[POISON in row for row in rows]] = np.nan
        first, size = self.info.vocabulary_first, self.info.vocabulary_size
        return _result(logits_PV[:, first : first + size], first, plan)


def _result(logits_PV: Any, first_id: int, plan: pb.Plan) -> pb.StepResult:
    order_PV = np.argsort(-logits_PV, axis=1, kind="stable")
    best_PV = np.take_along_axis(logits_PV, order_PV, axis=1)
    with np.errstate(invalid="ignore"):
        lse_P = np.logaddexp.reduce(logits_PV, axis=1)
    ids_PV = order_PV + first_id
    noised, top, raw = plan.num_noised, plan.num_top, plan.num_raw
    return pb.StepResult(
        noised_ids=to_wire(ids_PV[:, :noised], I32),
        noised_scores=to_wire(best_PV[:, :noised], F32),
        noised_processed=to_wire(best_PV[:, :noised], F32),
        noised_raw=to_wire(best_PV[:, :noised], F32),
        top_ids=to_wire(ids_PV[:, :top], I32),
        top_processed=to_wire(best_PV[:, :top], F32),
        raw_ids=to_wire(ids_PV[:, :raw], I32),
        raw_logits=to_wire(best_PV[:, :raw], F32),
        processed_lse=to_wire(lse_P, F32),
        raw_lse=to_wire(lse_P, F32),
    )


async def never(answer: pb.RunResponse) -> pb.RunResponse:
    """Answer nothing for a long time."""
    await asyncio.sleep(600)
    return answer
