"""Errors on the wire, from the handler that raises to the line a person reads."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from common import errors
from common.status import read_error, read_status, to_status, translated
from tests.support.raw_server import Handlers, open_channel, raw_server


class Service:
    """Raises what it is told to."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.closed = asyncio.Event()

    @translated
    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"raise":
            raise self.error
        return request

    @translated
    async def stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            if request == b"wait":
                await asyncio.sleep(60)
            if request == b"raise":
                raise self.error
            yield b"second"
        finally:
            self.closed.set()


async def call(error: BaseException, *, stream: bool, request: bytes = b"raise") -> grpc.aio.AioRpcError:
    """Return what a client gets when the handler raises `error`."""
    service = Service(error)
    handlers: Handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(service.unary),
        "Stream": grpc.unary_stream_rpc_method_handler(service.stream),
    }
    try:
        async with raw_server(handlers) as address, open_channel(address) as channel:
            assert await channel.unary_unary("/test/Unary")(b"fine") == b"fine"
            fine = channel.unary_stream("/test/Stream")(b"fine")
            assert [message async for message in fine] == [b"first", b"second"]
            if not stream:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/test/Unary")(request)
            else:
                messages = channel.unary_stream("/test/Stream")(request)
                assert await messages.read() == b"first"
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await messages.read()
            return caught.value
    finally:
        error.__traceback__ = None  # it would hold the server, and so its sockets


CASES = [
    (
        errors.InvalidRequest("sampling.top_p", "must be above 0"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid argument: sampling.top_p: must be above 0",
    ),
    (
        errors.Unauthenticated("a token is needed"),
        grpc.StatusCode.UNAUTHENTICATED,
        "unauthenticated: a token is needed",
    ),
    (errors.PermissionDenied("not you"), grpc.StatusCode.PERMISSION_DENIED, "permission denied: not you"),
    (errors.NotFound("no model x"), grpc.StatusCode.NOT_FOUND, "not found: no model x"),
    (
        errors.Overloaded("the queue is full", retry_after_s=2.5),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "resource exhausted: the queue is full (try again in 2.5 s)",
    ),
    (
        errors.Unavailable("loading", retry_after_s=1),
        grpc.StatusCode.UNAVAILABLE,
        "unavailable: loading (try again in 1 s)",
    ),
    (errors.DeadlineExceeded("too late"), grpc.StatusCode.DEADLINE_EXCEEDED, "deadline exceeded: too late"),
    (
        errors.Refused("WRONG_STEP", "7, not 8"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "failed precondition: 7, not 8",
    ),
    (
        errors.RequestFailed("logits are not finite"),
        grpc.StatusCode.INTERNAL,
        "internal: logits are not finite",
    ),
    (errors.CheckpointError("no file"), grpc.StatusCode.FAILED_PRECONDITION, "failed precondition: no file"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "code", "line"), CASES)
def test_every_error_travels(error: errors.TandemError, code: grpc.StatusCode, line: str, stream: bool) -> None:
    caught = asyncio.run(call(error, stream=stream))
    assert caught.code() is code
    assert read_error(caught) == line
    status = read_status(caught)
    assert status is not None and status.code == code.value[0]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("tandem", error.reason)


def test_the_whole_error_tree_has_a_case() -> None:
    assert {type(error) for error, _, _ in CASES} | {errors.SettingsError} == set(errors.TandemError.__subclasses__())


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_errors_say_nothing_to_anybody(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        caught = asyncio.run(call(KeyError("a secret"), stream=stream))
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert read_error(caught) == "internal: internal error"
    # What an exception says may quote a prompt; the log tells its kind, and where it came from.
    assert "secret" not in caplog.text and "KeyError" in caplog.text and "raise self.error" in caplog.text


def test_long_and_foreign_texts_fit_into_the_trailers() -> None:
    caught = asyncio.run(call(errors.InvalidRequest("text", "€" * 100_000), stream=False))
    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_cancellation_closes_the_wrapped_generator() -> None:
    async def run() -> None:
        service = Service(ValueError())
        handlers: Handlers = {"Stream": grpc.unary_stream_rpc_method_handler(service.stream)}
        async with raw_server(handlers) as address, open_channel(address) as channel:
            messages = channel.unary_stream("/test/Stream")(b"wait")
            await messages.read()
            messages.cancel()
            await asyncio.wait_for(service.closed.wait(), 5)

    asyncio.run(run())


def test_a_client_that_goes_while_it_is_written_to_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    class Pouring:
        def __init__(self) -> None:
            self.ended = asyncio.Queue[None]()

        @translated
        async def pour(self, request: bytes, context: Any) -> None:
            try:
                while True:
                    await context.write(bytes(64))
            finally:
                self.ended.put_nowait(None)

    async def run() -> None:
        pouring = Pouring()
        handlers: Handlers = {"Pour": grpc.unary_stream_rpc_method_handler(pouring.pour)}
        async with raw_server(handlers) as address, open_channel(address) as channel:
            for number in range(8):
                messages = channel.unary_stream("/test/Pour")(b"")
                await messages.read()
                await asyncio.sleep(0.1 * (number % 2))  # a writer that is blocked, and one that is not
                messages.cancel()
                await asyncio.wait_for(pouring.ended.get(), 5)

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert caplog.records == []


def test_a_peer_without_details_is_readable_too() -> None:
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNIMPLEMENTED, grpc.aio.Metadata(), grpc.aio.Metadata(), details="Method not found!"
    )
    assert read_status(error) is None
    assert read_error(error) == "unimplemented: Method not found!"
    assert to_status(errors.TandemError("x"))[0] is grpc.StatusCode.INTERNAL
