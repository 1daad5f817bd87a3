"""A small synchronous end of the step stream: to one rank, and to all ranks of a group."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from common.status import DETAILS_KEY
from common.step_protocol import PROTOCOL_VERSION, plan_hash, ran_hash
from tandem.shard.v1 import shard_service_pb2 as pb
from tandem.shard.v1 import shard_service_pb2_grpc
from tests.support.greedy import GreedyDriver
from tests.support.sync_stream import STREAM_TIMEOUT_S, SyncStream, open_sync_channel


def refusal_reason(error: grpc.RpcError) -> str:
    """Return ErrorInfo.reason of a call that was refused, after checking that it was (FAILED_PRECONDITION)."""
    assert isinstance(error, grpc.Call)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
    details = dict(error.trailing_metadata())[DETAILS_KEY]
    assert isinstance(details, bytes)
    status, info = Status.FromString(details), error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    reason: str = info.reason
    return reason


class StepStream(SyncStream[pb.RunRequest, pb.RunResponse]):
    """One step stream."""

    def __init__(self, address: str) -> None:
        channel = open_sync_channel(address)
        stub = shard_service_pb2_grpc.ShardServiceStub(channel)
        self.info: pb.GetInfoResponse = stub.GetInfo(pb.GetInfoRequest(), timeout=STREAM_TIMEOUT_S, wait_for_ready=True)
        super().__init__(channel, stub.Run)

    def attach(self, **changes: Any) -> pb.GetInfoResponse:
        """Attach with the highest fence so far, or with some fields changed."""
        fields: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "epoch": self.info.epoch,
            "fence": time.time_ns(),
            "checkpoint_hash": self.info.checkpoint_hash,
        }
        return self.exchange(pb.RunRequest(attach=pb.Attach(**(fields | changes)))).attached

    def run(self, plan: pb.Plan | bytes, step: int, /, **changes: Any) -> pb.StepResult:
        """Run a plan as this step, or with some of the frame's fields changed."""
        return self.exchange(pb.RunRequest(frame=self.frame(plan, step, **changes))).result

    def frame(self, plan: pb.Plan | bytes, step: int, /, **changes: Any) -> pb.Frame:
        """Return the frame of a plan, with some fields changed."""
        data = plan if isinstance(plan, bytes) else plan.SerializeToString()
        digest = plan_hash(self.info.epoch, step, data)
        fields: dict[str, Any] = {"epoch": self.info.epoch, "step": step, "plan_hash": digest, "plan": data}
        return pb.Frame(**(fields | changes))


class StepGroup:
    """The step streams to all ranks of a group, attached; checks what every answer must say."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.streams = [StepStream(address) for address in addresses]
        self.infos = [stream.info for stream in self.streams]
        assert len({info.epoch for info in self.infos}) == 1, "the ranks are not of one group"
        fence = time.time_ns()
        for stream in self.streams:
            stream.attach(fence=fence)
        self.step = 0
        self._ran_hash = 0

    def run(self, plan: pb.Plan) -> list[pb.StepResult]:
        """Run a plan on all ranks and return their results in rank order."""
        self.step += 1
        request = pb.RunRequest(frame=self.streams[0].frame(plan, self.step))
        for stream in self.streams:
            stream.send(request)
        results = [stream.receive().result for stream in self.streams]
        self._ran_hash = ran_hash(self._ran_hash, request.frame.plan_hash)
        for result in results:
            assert (result.epoch, result.step) == (request.frame.epoch, self.step)
            assert result.ran_hash == self._ran_hash
        return results

    def resolve(self, position: int) -> list[pb.Resolved]:
        """Return all ranks' slices at one sampled position of the last step."""
        request = pb.Resolve(epoch=self.infos[0].epoch, step=self.step, position=position)
        for stream in self.streams:
            stream.send(pb.RunRequest(resolve=request))
        return [stream.receive().resolved for stream in self.streams]

    def driver(self) -> GreedyDriver:
        """Return a driver of this group."""
        return GreedyDriver(self.run, self.resolve, min(self.infos, key=lambda info: info.num_blocks))

    def close(self) -> None:
        """End all streams."""
        for stream in self.streams:
            stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
