"""One request as its client saw it: when it began, when tokens came, what the server says about it."""

import time
from collections.abc import AsyncIterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import grpc

from common.commands.client import Client
from common.status import read_error
from tandem.v1.inference_service_pb2 import GenerateFinished, GenerateRequest, GenerateResponse

REQUEST_TIMEOUT_S = 600.0


class Arrival(NamedTuple):
    """A message with `tokens` new tokens, at `time_ns` of the client's monotonic clock."""

    time_ns: int
    tokens: int


@dataclass(frozen=True)
class Trace:
    """One whole answer. `due_ns` is when the load wanted it sent; times include any wait to send it."""

    due_ns: int
    end_ns: int
    arrivals: tuple[Arrival, ...]
    finished: GenerateFinished

    @property
    def tokens(self) -> int:
        """Number of tokens that came."""
        return sum(arrival.tokens for arrival in self.arrivals)

    @property
    def duration_ns(self) -> int:
        """From the request to the end of its stream."""
        return self.end_ns - self.due_ns

    @property
    def time_to_first_token_ns(self) -> int:
        """From the request to the first message that holds a token."""
        return self.arrivals[0].time_ns - self.due_ns

    @property
    def decode_ns(self) -> int:
        """From the first message with tokens to the last."""
        return self.arrivals[-1].time_ns - self.arrivals[0].time_ns

    @property
    def decoded_tokens(self) -> int:
        """Tokens after the first message: those that `decode_ns` was spent on."""
        return self.tokens - self.arrivals[0].tokens

    def inter_token_ns(self) -> list[float]:
        """Return the time before each token after the first message.

        Tokens that come together share the time since the message before evenly.
        """
        gaps: list[float] = []
        for before, after in pairwise(self.arrivals):
            gaps += [(after.time_ns - before.time_ns) / after.tokens] * after.tokens
        return gaps


@dataclass(frozen=True)
class Failure:
    """A request that the server refused or broke off, and its reason in one line."""

    reason: str


async def trace(client: Client, request: GenerateRequest, due_ns: int | None = None) -> Trace | Failure:
    """Send `request`, read its stream to the end, and return what was seen. Cancels the call if cancelled itself."""
    due_ns = time.perf_counter_ns() if due_ns is None else due_ns
    call = client.stub.Generate(request, timeout=REQUEST_TIMEOUT_S)
    try:
        return await read_events(call, due_ns)
    except grpc.aio.AioRpcError as error:
        return Failure(read_error(error))
    finally:
        call.cancel()  # grpc.aio never cancels an abandoned call itself


async def read_events(events: AsyncIterable[GenerateResponse], due_ns: int) -> Trace | Failure:
    """Return the trace of a stream of events."""
    arrivals: list[Arrival] = []
    finished: GenerateFinished | None = None
    async for event in events:
        if event.HasField("finished"):
            finished = event.finished
        elif tokens := len(event.delta.token_ids):
            arrivals.append(Arrival(time.perf_counter_ns(), tokens))
    if finished is None or not arrivals:
        return Failure("the stream ended without a token" if finished else "the server ended the stream too early")
    return Trace(due_ns, time.perf_counter_ns(), tuple(arrivals), finished)
