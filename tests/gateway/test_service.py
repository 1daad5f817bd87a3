"""The public service in this process, over fake ranks: statuses at the border, and nothing left of any call."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from common.channel import open_channel, server_options
from common.status import read_status
from gateway import registration
from gateway.limits import ModelLimits
from gateway.registration import register
from gateway.service import InferenceService
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.support.fake_loop import NumberTokenizer, running_loop, until
from tests.support.fake_rank import CHECKPOINT_HASH, POISON, VOCABULARY, FakeRank

MODEL = ModelLimits(name="numbers", vocabulary_size=VOCABULARY, context_length=64, max_new_tokens=60)
MANIFEST = SimpleNamespace(end_of_text_ids=(), chat_template=None)


class NumberPrompts:
    """Reads prompts that are token ids, or texts of numbers."""

    tokenizer = NumberTokenizer()

    async def read_prompt(self, request: pb.GenerateRequest) -> list[int]:
        return list(request.token_ids.ids) or self.tokenizer.encode(request.text)


@asynccontextmanager
async def listening(service: Any, write_timeout_s: float = 5.0) -> AsyncIterator[grpc.aio.Channel]:
    """Serve this service and yield a channel to it."""
    server = grpc.aio.server(options=server_options())
    register(service, server, write_timeout_s)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}", 64 << 20) as channel:
            yield channel
    finally:
        await server.stop(0)


@asynccontextmanager
async def serving(rank: FakeRank) -> AsyncIterator[Any]:
    """Serve the real service over one fake rank; yields a stub."""
    async with rank, running_loop([rank]) as (loop, _):
        service = InferenceService(loop, cast(Any, NumberPrompts()), MODEL, cast(Any, MANIFEST), CHECKPOINT_HASH)
        async with listening(service) as channel:
            yield InferenceServiceStub(channel)


def request(first: int, max_tokens: int = 8) -> pb.GenerateRequest:
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=[first]), stopping=pb.StoppingParams(max_tokens=max_tokens))


async def ids_of(call: Any) -> list[int]:
    return [token_id async for event in call for token_id in event.delta.token_ids]


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_numbers_that_are_not_finite_are_internal_and_nobody_elses() -> None:
    async def test() -> None:
        async with serving(FakeRank()) as stub:
            good, bad = stub.Generate(request(20)), stub.Generate(request(POISON))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ids_of(bad)
            status = read_status(caught.value)
            assert caught.value.code() is grpc.StatusCode.INTERNAL and status
            assert "REQUEST_FAILED" in str(status) and "not finite" in status.message
            assert await ids_of(good) == list(range(21, 29))

    run(test)


def test_calls_that_end_in_any_way_leave_no_task() -> None:
    async def test() -> None:
        draw = random.Random(0)
        async with serving(FakeRank()) as stub:
            await ids_of(stub.Generate(request(20)))
            await asyncio.sleep(0.1)
            before = len(asyncio.all_tasks())

            async def one(index: int) -> None:
                call = stub.Generate(request(draw.randrange(VOCABULARY), 40), timeout=0.02 if index % 3 == 0 else 20)
                try:
                    await asyncio.wait_for(ids_of(call), draw.uniform(0.001, 0.3))
                except (TimeoutError, grpc.aio.AioRpcError):
                    call.cancel()

            await asyncio.gather(*(one(index) for index in range(100)))
            await until(lambda: len(asyncio.all_tasks()) <= before)
            assert await ids_of(stub.Generate(request(20))) == list(range(21, 29))

    run(test)


class Misbehaving:
    """A service whose calls fail, or send more than anybody reads."""

    async def Score(self, request: Any, context: Any, trace: Any) -> pb.ScoreResponse:
        raise KeyError("a secret of ours")

    async def Generate(self, request: Any, context: Any, trace: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.ended = asyncio.Event()
        try:
            while True:
                yield pb.GenerateResponse(delta=pb.GenerateDelta(text="x" * 100_000))
        finally:
            self.ended.set()

    GetModel = Tokenize = Detokenize = Score


def test_our_own_bugs_tell_nothing() -> None:
    async def test() -> None:
        async with listening(Misbehaving()) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await InferenceServiceStub(channel).Score(pb.ScoreRequest())
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")

    run(test)


def test_a_client_that_reads_nothing_is_dropped() -> None:
    async def test() -> None:
        service = Misbehaving()
        async with listening(service, write_timeout_s=0.3) as channel:
            call: Any = InferenceServiceStub(channel).Generate(pb.GenerateRequest())
            await call.read()
            await asyncio.wait_for(service.ended.wait(), 5)
            with pytest.raises(grpc.aio.AioRpcError, match="nothing was read for") as caught:
                while True:
                    await call.read()
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    run(test)


@pytest.mark.parametrize("method", sorted(registration.SERVICE.methods_by_name))
def test_what_is_no_message_is_the_callers_mistake(method: str) -> None:
    async def test() -> None:
        async with listening(Misbehaving()) as channel:
            path = f"/{registration.SERVICE.full_name}/{method}"
            call: Any = channel.unary_stream(path) if method == "Generate" else channel.unary_unary(path)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                answer = call(b"\x0a\x7f")
                await (answer.read() if method == "Generate" else answer)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert method in (caught.value.details() or "")

    run(test)
