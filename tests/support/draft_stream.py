"""A small synchronous end of the draft stream, and a live draft worker started the way a user starts one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.draft_protocol import PROTOCOL_VERSION
from tandem.draft.v1 import draft_service_pb2 as pb
from tandem.draft.v1 import draft_service_pb2_grpc
from tests.support.ranks import RankProcess
from tests.support.sync_stream import STREAM_TIMEOUT_S, SyncStream, open_sync_channel


class DraftStream(SyncStream[pb.ProposeRequest, pb.ProposeResponse]):
    """One draft stream."""

    def __init__(self, address: str) -> None:
        channel = open_sync_channel(address)
        self._stub = draft_service_pb2_grpc.DraftServiceStub(channel)
        super().__init__(channel, self._stub.Propose)

    def info(self) -> pb.GetInfoResponse:
        """Ask the worker who it is."""
        info: pb.GetInfoResponse = self._stub.GetInfo(pb.GetInfoRequest(), timeout=STREAM_TIMEOUT_S)
        return info

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
