"""A connection to a gateway whose every failure is one clear line."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import click
import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, open_channel
from common.status import read_error, read_status
from tandem.v1.inference_service_pb2 import (
    GenerateRequest,
    GenerateResponse,
    GetModelRequest,
    GetModelResponse,
)
from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:
    from tandem.v1.inference_service_pb2_grpc import InferenceServiceAsyncStub

ANSWER_TIMEOUT_S = 3.5


class Client(NamedTuple):
    """A gateway that answered, and what it serves."""

    stub: "InferenceServiceAsyncStub"
    model: GetModelResponse


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    """Yield a client of the gateway at `address`.

    Raises click.ClickException (exit code 1) when nothing answers there within ANSWER_TIMEOUT_S.
    """
    async with open_channel(address, INTERNAL_MESSAGE_BYTES) as channel:
        stub = InferenceServiceStub(channel)
        try:
            model = await stub.GetModel(GetModelRequest(), timeout=ANSWER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            silent = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if silent and read_status(error) is None:
                raise click.ClickException(f"no server answers at {address}; `tandem up` starts one") from None
            raise click.ClickException(f"{address}: {read_error(error)}") from None
        yield Client(stub, model)


async def events(client: Client, request: GenerateRequest) -> AsyncGenerator[GenerateResponse, None]:
    """Yield the events of one answer; cancel the call when the caller leaves early.

    Raises click.ClickException (exit code 1) with the server's reason when the stream fails.
    """
    call = client.stub.Generate(request)
    try:
        async for event in call:
            yield event
    except grpc.aio.AioRpcError as error:
        raise click.ClickException(read_error(error)) from None
    finally:
        call.cancel()  # grpc.aio never cancels an abandoned call itself
