"""A gateway without a model, run as a script: its answers depend on the prompt's text alone.

    python fake_gateway.py LISTEN [--no-template]

Prints its port. SIGTERM ends it. It logs each request and "cancelled" when a call is cancelled, on stderr.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, server_options
from common.errors import InvalidRequest, Overloaded, Unavailable
from common.health import HealthBoard
from common.parent_death import die_with_parent_if_told
from common.status import translated
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.inference_service_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)


class FakeGateway(InferenceServiceServicer):
    def __init__(self, has_chat_template: bool) -> None:
        self.has_chat_template = has_chat_template

    async def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(name="fake", has_chat_template=self.has_chat_template)

    @translated
    async def Generate(self, request: Any, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        turns = [f"{m.role}:{m.content}" for m in request.chat.messages]
        log("request", request.WhichOneof("prompt"), turns or request.text, request.sampling.temperature)
        text = request.chat.messages[-1].content if turns else request.text
        if text == "bad":
            raise InvalidRequest("sampling.temperature", "must be at most 100")
        if text == "busy":
            raise Overloaded("the queue is full", retry_after_s=2.5)
        yield pb.GenerateResponse(started=pb.GenerateStarted(request_id="r1", model="fake", seed=1 << 60))
        if text == "slow":
            try:
                while True:
                    yield delta("tick ")
                    await asyncio.sleep(0.02)
            finally:
                log("cancelled")
        for word in ("You ", "said ", text):
            yield delta(word, request.logprobs if request.HasField("logprobs") else None)
        if text == "break":
            raise Unavailable("a rank is gone")
        yield pb.GenerateResponse(finished=finished(steps=3))


def delta(text: str, logprobs: int | None = None) -> pb.GenerateResponse:
    entries = []
    if logprobs is not None:
        ids = list(range(logprobs))
        entries = [pb.TokenLogprobs(logprob=-0.5, top_ids=ids, top_logprobs=[-0.5] * logprobs)]
    return pb.GenerateResponse(delta=pb.GenerateDelta(text=text, token_ids=[7], logprobs=entries))


def finished(steps: int) -> pb.GenerateFinished:
    return pb.GenerateFinished(
        reason=pb.FINISH_REASON_END_OF_TEXT,
        stop_token_id=2,
        usage=pb.Usage(prompt_tokens=5, completion_tokens=3, cached_prompt_tokens=1),
        timings=pb.Timings(
            time_to_first_token_ns=40_000_000,
            decode_ns=500_000_000,
            steps=steps,
            hops=pb.StepTimings(plan_ns=300_000),
            ranks=[pb.RankTimings(compute_ns=30_000_000), pb.RankTimings(collective_ns=3_000_000)],
        ),
    )


def log(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


async def main(listen: str, has_chat_template: bool) -> None:
    server = grpc.aio.server(options=server_options(INTERNAL_MESSAGE_BYTES))
    health = HealthBoard()
    health.add_to(server)
    service = FakeGateway(has_chat_template)  # type: ignore[abstract]  # the others stay UNIMPLEMENTED
    add_InferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port(listen)
    await server.start()
    await health.set_serving(True)
    print(port, flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    log("stopping")
    await server.stop(0)


if __name__ == "__main__":
    die_with_parent_if_told()
    asyncio.run(main(sys.argv[1], "--no-template" not in sys.argv))
