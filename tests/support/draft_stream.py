"""A small synchronous end of the draft stream, and a live draft worker started the way a user starts one."""

import queue
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from common.draft_protocol import PROTOCOL_VERSION
from tandem.draft.v1 import draft_service_pb2 as pb
from tandem.draft.v1 import draft_service_pb2_grpc
from tests.support.ranks import RankProcess
from tests.support.step_client import open_sync_channel

STREAM_TIMEOUT_S = 60.0


class DraftStream:
    """One draft stream. Requests are sent as they are: a test may break any rule. Use as a context manager."""

    def __init__(self, address: str) -> None:
        self._channel = open_sync_channel(address)
        self._stub = draft_service_pb2_grpc.DraftServiceStub(self._channel)
        self._requests: queue.SimpleQueue[pb.ProposeRequest | None] = queue.SimpleQueue()
        self._answers: Any = self._stub.Propose(iter(self._requests.get, None), timeout=STREAM_TIMEOUT_S)

    def info(self) -> pb.GetInfoResponse:
        """Ask the worker who it is."""
        info: pb.GetInfoResponse = self._stub.GetInfo(pb.GetInfoRequest(), timeout=STREAM_TIMEOUT_S)
        return info

    def send(self, request: pb.ProposeRequest) -> None:
        """Send one message."""
        self._requests.put(request)

    def receive(self) -> pb.ProposeResponse:
        """Return the next answer. Raises grpc.RpcError when the stream was ended with an error."""
        answer: pb.ProposeResponse = next(self._answers)
        return answer

    def attach(self, **changes: Any) -> pb.GetInfoResponse:
        """Attach with the worker's own vocabulary, or with some fields changed."""
        info = self.info()
        fields: dict[str, Any] = {
            "protocol_version": PROTOCOL_VERSION,
            "vocabulary_hash": info.vocabulary_hash,
            "vocabulary_size": info.vocabulary_size,
        }
        self.send(pb.ProposeRequest(attach=pb.Attach(**(fields | changes))))
        return self.receive().attached

    def tell(self, **batch: Any) -> None:
        """Send one batch of these opens, commits and closes."""
        self.send(pb.ProposeRequest(batch=pb.Batch(**batch)))

    def proposals(self, count: int) -> list[pb.Proposal]:
        """Return the next `count` proposals."""
        received = list[pb.Proposal]()
        while len(received) < count:
            received += self.receive().answers.proposals
        return received

    def load(self) -> pb.Load:
        """Send an empty batch and return the load that the next message without proposals tells."""
        self.tell()
        while (answers := self.receive().answers).proposals:
            pass
        return answers.load

    def close(self) -> None:
        """End the stream and its channel."""
        self._requests.put(None)
        self._answers.cancel()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def draft_process(**settings: Any) -> Iterator[RankProcess]:
    """Run one `tandem serve draft`; yields it once it serves, and ends it afterwards."""
    # Sockets need short paths, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        arguments = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        worker = RankProcess(f"unix:{name}/draft.sock", Path(name) / "draft.log", arguments, service="draft")
        try:
            worker.wait_serving()
            yield worker
        except BaseException as error:
            error.add_note(f"log of {worker.address}:\n{worker.log}")
            raise
        finally:
            worker.kill()


def status_of(error: grpc.RpcError) -> grpc.StatusCode:
    """Return the code of a call that ended."""
    assert isinstance(error, grpc.Call)
    return error.code()
