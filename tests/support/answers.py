"""Whole answers of Generate: what a stream said, in order, and when; one stream or many at once."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.sampling_pb2 import SamplingParams

if TYPE_CHECKING:
    from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub

STREAM_TIMEOUT_S = 120.0


@dataclass
class Answer:
    """One stream. `arrivals_s` has the time at which each generated token was there."""

    started: pb.GenerateStarted = field(default_factory=pb.GenerateStarted)
    texts: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    finished: pb.GenerateFinished = field(default_factory=pb.GenerateFinished)
    arrivals_s: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The texts of all deltas."""
        return "".join(self.texts)

    @property
    def usage(self) -> pb.Usage:
        """The usage that the last message told."""
        return self.finished.usage

    @property
    def gaps_s(self) -> list[float]:
        """Times between one token and the next."""
        return [after - before for before, after in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]


def read_answer(events: Iterable[pb.GenerateResponse]) -> Answer:
    """Read a stream to its end, checking the order of its events: started, deltas, finished.

    Raises grpc.RpcError when the stream ends with an error.
    """
    answer, kinds = Answer(), []
    for event in events:
        now_s = time.perf_counter()
        kind = event.WhichOneof("event")
        kinds.append(kind)
        if kind == "started":
            answer.started = event.started
        elif kind == "delta":
            answer.texts.append(event.delta.text)
            answer.ids += event.delta.token_ids
            answer.logprobs += event.delta.logprobs
            answer.arrivals_s += [now_s] * len(event.delta.token_ids)
        else:
            answer.finished = event.finished
    assert kinds[0] == "started" and kinds[-1] == "finished" and set(kinds[1:-1]) <= {"delta"}, kinds
    assert answer.usage.completion_tokens == len(answer.ids)
    assert answer.usage.prompt_tokens == answer.started.prompt_tokens
    return answer


def generate(stub: "InferenceServiceStub", request: pb.GenerateRequest) -> Answer:
    """Return the whole answer to one request."""
    return read_answer(stub.Generate(request, timeout=STREAM_TIMEOUT_S))


def generate_all(stub: "InferenceServiceStub", requests: Sequence[pb.GenerateRequest]) -> list[Answer]:
    """Return the answers to requests that are sent at the same time, in their order."""
    with ThreadPoolExecutor(max_workers=len(requests)) as threads:
        return list(threads.map(lambda request: generate(stub, request), requests))


def text_request(
    text: str, max_tokens: int, sampling: SamplingParams | None = None, **fields: Any
) -> pb.GenerateRequest:
    """Return a request for exactly `max_tokens` tokens after plain text; other fields as in GenerateRequest."""
    stopping = pb.StoppingParams(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(text=text, sampling=sampling, stopping=stopping, **fields)
