"""Endless streams under watch: when each delta came, and whether drafts had proposed its tokens."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import grpc

from tandem.v1 import inference_service_pb2 as pb
from tests.support.gateway_process import POLL_S, GatewayProcess


class WatchedStream:
    """One stream after the other, read on a thread of its own until this is closed."""

    def __init__(self, gateway: GatewayProcess, request: pb.GenerateRequest) -> None:
        self.gaps_s: list[tuple[float, float]] = []  # when a delta came, how long after the one before
        self.drafted_s: list[float] = []  # when a delta came that holds a token which a draft had proposed
        self._generate, self._request = gateway.client.stub.Generate, request
        self._call = self._generate(request)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End the stream."""
        self._closed.set()
        self._call.cancel()
        self._thread.join()

    def ratio(self, since_s: float, until_s: float) -> float:
        """Return the longest time between two deltas, the later one within these bounds, over the stream's median."""
        longest_s = max(gap_s for at_s, gap_s in self.gaps_s if since_s <= at_s <= until_s)
        return longest_s / median(gap_s for _, gap_s in self.gaps_s)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                self._read()
                self._call = self._generate(self._request)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.CANCELLED, error
        self._call.cancel()

    def _read(self) -> None:
        before_s = None
        for event in self._call:
            if event.HasField("delta"):
                now_s = time.monotonic()
                if before_s is not None:
                    self.gaps_s.append((now_s, now_s - before_s))
                if any(event.delta.is_draft):
                    self.drafted_s.append(now_s)
                before_s = now_s


@contextmanager
def watched(gateway: GatewayProcess, requests: Sequence[pb.GenerateRequest]) -> Iterator[list[WatchedStream]]:
    """Run streams of these requests while the body runs."""
    streams = [WatchedStream(gateway, request) for request in requests]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.close()


def wait_for_drafts(streams: Sequence[WatchedStream], timeout_s: float) -> float:
    """Wait until each stream brings a token that a draft had proposed, from now on; returns how long that took."""
    began_s = time.monotonic()
    while not all(stream.drafted_s and stream.drafted_s[-1] >= began_s for stream in streams):
        assert time.monotonic() < began_s + timeout_s, f"no drafts within {timeout_s:g} s"
        time.sleep(POLL_S)
    return time.monotonic() - began_s
