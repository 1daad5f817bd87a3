"""A synchronous end of one of our bidirectional streams, for tests that may break any rule."""

import queue
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, client_options

STREAM_TIMEOUT_S = 600.0  # of a whole stream: far beyond any test of ours
Request = TypeVar("Request")
Response = TypeVar("Response")


def open_sync_channel(address: str) -> grpc.Channel:
    """Return a synchronous channel with our options."""
    return grpc.insecure_channel(address, client_options(INTERNAL_MESSAGE_BYTES))


class SyncStream(Generic[Request, Response]):
    """One stream on a channel of its own. Requests are sent as they are. Use as a context manager."""

    def __init__(self, channel: grpc.Channel, call: Callable[..., Any]) -> None:
        self._channel = channel
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._answers: Any = call(iter(self._requests.get, None), timeout=STREAM_TIMEOUT_S)

    def send(self, request: Request) -> None:
        """Send one message."""
        self._requests.put(request)

    def receive(self) -> Response:
        """Return the next answer. Raises grpc.RpcError when the stream was ended with an error."""
        answer: Response = next(self._answers)
        return answer

    def exchange(self, request: Request) -> Response:
        """Send one message and return its answer."""
        self.send(request)
        return self.receive()

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
