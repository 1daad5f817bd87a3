"""The gateway's end of the step stream: one frame out to every rank, every rank's answer back."""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, open_channel
from common.errors import Refused, Unavailable
from common.step_protocol import PROTOCOL_VERSION, plan_hash, ran_hash
from common.tls import ClientTls
from gateway.time_limit import TimeLimit
from tandem.shard.v1 import shard_service_pb2 as pb

RUN = "/tandem.shard.v1.ShardService/Run"
GET_INFO = "/tandem.shard.v1.ShardService/GetInfo"

T = TypeVar("T")


@dataclass(frozen=True)
class GroupInfo:
    """What the ranks of a group agree on, and the smallest of their capacities."""

    epoch: int
    ranks: tuple[pb.GetInfoResponse, ...]

    @property
    def num_blocks(self) -> int:
        """KV blocks that every rank has."""
        return min(rank.num_blocks for rank in self.ranks)

    @property
    def block_size_tokens(self) -> int:
        """Positions in a KV block."""
        return self.ranks[0].block_size_tokens

    @property
    def kv_cache_tokens(self) -> int:
        """Positions that every rank's KV cache holds."""
        return self.num_blocks * self.block_size_tokens

    @property
    def max_step_tokens(self) -> int:
        """Most token ids every rank takes in a frame."""
        return min(rank.max_step_tokens for rank in self.ranks)

    @property
    def context_length(self) -> int:
        """Most positions every rank can compute."""
        return min(rank.context_length for rank in self.ranks)


class RankLink:
    """The step stream to one rank."""

    def __init__(self, address: str, tls: ClientTls | None = None) -> None:
        self.address = address
        self._channel = open_channel(address, INTERNAL_MESSAGE_BYTES, tls=tls)
        self._get_info = self._channel.unary_unary(
            GET_INFO,
            request_serializer=pb.GetInfoRequest.SerializeToString,
            response_deserializer=pb.GetInfoResponse.FromString,
        )
        # Requests are serialised once for all ranks, so the stream takes bytes as they are.
        self._run: Any = self._channel.stream_stream(RUN, response_deserializer=pb.RunResponse.FromString)
        self._stream: grpc.aio.StreamStreamCall[bytes, pb.RunResponse] | None = None

    async def get_info(self) -> pb.GetInfoResponse:
        """Ask the rank who it is; waits until the rank is there."""
        return await self._get_info(pb.GetInfoRequest(), timeout=5.0)

    def open(self) -> None:
        """Begin the step stream."""
        self._stream = self._run()

    async def exchange(self, request: bytes) -> pb.RunResponse:
        """Send a serialised RunRequest and return its answer. Raises Unavailable when the stream is broken."""
        assert self._stream is not None
        try:
            await self._stream.write(request)
            answer: Any = await self._stream.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise Unavailable(f"{self.address}: {_reason(error)}") from error
        if not isinstance(answer, pb.RunResponse):
            raise Unavailable(f"{self.address}: the step stream ended: {await self._stream.details() or 'no reason'}")
        return answer

    async def close(self) -> None:
        """End the stream and the channel."""
        if self._stream is not None:
            self._stream.cancel()
        await self._channel.close()


class ShardGroup:
    """All ranks of one group, attached. Steps are run one after the other."""

    def __init__(self, links: Sequence[RankLink], info: GroupInfo, step_timeout_s: float) -> None:
        self._links = links
        self._step_timeout_s, self._limit = step_timeout_s, TimeLimit(step_timeout_s)
        self._step = 0
        self._ran_hash = 0
        self.info = info

    @classmethod
    async def attach(
        cls,
        addresses: Sequence[str],
        checkpoint_hash: str,
        step_timeout_s: float,
        tls: ClientTls | None = None,
        only_if_free: bool = False,
    ) -> "ShardGroup":
        """Connect to all ranks, check that they are one group with our checkpoint, and take them over.

        Raises Unavailable when a rank is not there or, with `only_if_free`, another gateway holds it; Refused when the
        ranks do not fit together or are about to stop.
        """
        links = [RankLink(address, tls) for address in addresses]
        try:
            infos = await _all(link.get_info() for link in links)
            info = GroupInfo(epoch=infos[0].epoch, ranks=tuple(infos))
            _check_group(info, checkpoint_hash)
            attach = pb.Attach(
                protocol_version=PROTOCOL_VERSION,
                epoch=info.epoch,
                fence=time.time_ns(),
                checkpoint_hash=checkpoint_hash,
                only_if_free=only_if_free,
            )
            request = pb.RunRequest(attach=attach).SerializeToString()
            for link in links:
                link.open()
            # Whoever gets the first rank gets all: two gateways never hold a part each.
            await links[0].exchange(request)
            await _all(link.exchange(request) for link in links[1:])
        except grpc.aio.AioRpcError as error:
            await _close(links)
            raise Unavailable(_reason(error)) from error
        except BaseException:
            await _close(links)
            raise
        return cls(links, info, step_timeout_s)

    @property
    def step(self) -> int:
        """Number of the step that was run last."""
        return self._step

    async def run(self, plan: bytes) -> list[pb.StepResult]:
        """Run one step on all ranks and return their results in rank order.

        Raises Unavailable when a rank is lost, late or ran something else; the group is then unusable.
        """
        self._step += 1
        digest = plan_hash(self.info.epoch, self._step, plan)
        frame = pb.Frame(epoch=self.info.epoch, step=self._step, plan_hash=digest, plan=plan)
        self._ran_hash = ran_hash(self._ran_hash, digest)
        answers = await self._exchange(pb.RunRequest(frame=frame))
        for link, answer in zip(self._links, answers, strict=True):
            if answer.result.step != self._step or answer.result.ran_hash != self._ran_hash:
                raise Unavailable(f"{link.address}: answered for another step or ran another plan")
        return [answer.result for answer in answers]

    async def resolve(self, position: int) -> list[pb.Resolved]:
        """Return the ranks' whole slices at one sampled position of the last step, in rank order."""
        request = pb.Resolve(epoch=self.info.epoch, step=self._step, position=position)
        answers = await self._exchange(pb.RunRequest(resolve=request))
        return [answer.resolved for answer in answers]

    async def is_draining(self) -> bool:
        """Whether a rank is about to stop; False where one does not answer, of which the next step will tell."""
        try:
            return any(info.draining for info in await _all(link.get_info() for link in self._links))
        except grpc.aio.AioRpcError:
            return False

    async def close(self) -> None:
        """End all streams."""
        self._limit.close()
        await _close(self._links)

    async def _exchange(self, request: pb.RunRequest) -> list[pb.RunResponse]:
        data = request.SerializeToString()
        try:
            with self._limit:
                if len(self._links) == 1:
                    return [await self._links[0].exchange(data)]
                return await _all(link.exchange(data) for link in self._links)
        except TimeoutError as error:
            raise Unavailable(f"no answer from all ranks within {self._step_timeout_s:g} s") from error


def _check_group(info: GroupInfo, checkpoint_hash: str) -> None:
    for index, rank in enumerate(info.ranks):
        if rank.draining:
            raise Refused("DRAINING", f"rank {index} is about to stop")
        expected = {
            "protocol_version": PROTOCOL_VERSION,
            "epoch": info.epoch,
            "rank": index,
            "world_size": len(info.ranks),
            "checkpoint_hash": checkpoint_hash,
            "block_size_tokens": info.block_size_tokens,
            "dtype": info.ranks[0].dtype,
            "vocabulary_first": sum(r.vocabulary_size for r in info.ranks[:index]),
        }
        for field, value in expected.items():
            if getattr(rank, field) != value:
                raise Refused("WRONG_GROUP", f"rank {index}: {field} is {getattr(rank, field)!r}, not {value!r}")


async def _all(awaitables: Iterable[Awaitable[T]]) -> list[T]:
    """Await all; when one fails, cancel the others, so that none is left behind unseen."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _close(links: Sequence[RankLink]) -> None:
    for link in links:
        await link.close()


def _reason(error: Exception) -> str:
    return (error.details() or error.code().name) if isinstance(error, grpc.aio.AioRpcError) else str(error)
