"""A connection to a gateway whose every failure is one clear line."""

import functools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import click
import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, open_channel
from common.commands.gateway_address import GatewayAddress
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
async def connected(gateway: GatewayAddress | str) -> AsyncIterator[Client]:
    """Yield a client of a gateway; where only its address is given it is called in plaintext, without a token.

    Raises click.ClickException (exit code 1) when nothing answers there within ANSWER_TIMEOUT_S.
    """
    address, tls, _ = gateway = GatewayAddress(gateway) if isinstance(gateway, str) else gateway
    async with open_channel(address, INTERNAL_MESSAGE_BYTES, tls=tls) as channel:
        stub = _with_metadata(InferenceServiceStub(channel), gateway.metadata)
        try:
            model = await stub.GetModel(GetModelRequest(), timeout=ANSWER_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            silent = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            if silent and read_status(error) is None:
                why = f" with TLS: {error.details()}" if tls is not None else "; `tandem up` starts one"
                raise click.ClickException(f"no server answers at {address}{why}") from None
            raise click.ClickException(f"{address}: {read_error(error)}") from None
        yield Client(stub, model)


def _with_metadata(stub: object, metadata: tuple[tuple[str, str], ...]) -> "InferenceServiceAsyncStub":
    """Return the stub, each of whose calls carries `metadata`."""

    class Stub:
        def __getattr__(self, name: str) -> Any:
            return functools.partial(getattr(stub, name), metadata=metadata)

    return cast("InferenceServiceAsyncStub", Stub() if metadata else stub)


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
