"""Errors on the wire: TandemError to google.rpc.Status at the server's border, and back to a line for people.

The richer error model of gRPC: https://grpc.io/docs/guides/error/#richer-error-model
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from common.errors import (
    CheckpointError,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Refused,
    SettingsError,
    TandemError,
    Unauthenticated,
    Unavailable,
)
from common.telemetry.log_lines import without_words

DOMAIN = "tandem"
DETAILS_KEY = "grpc-status-details-bin"
MAX_TEXT_BYTES = 1_000  # clients take 8 KiB of trailers; text may stand in them three times, encoded

CODES: dict[type[TandemError], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
    SettingsError: grpc.StatusCode.FAILED_PRECONDITION,
    CheckpointError: grpc.StatusCode.FAILED_PRECONDITION,
}

Handler = TypeVar("Handler", bound=Callable[..., Any])
log = logging.getLogger(__name__)


def to_status(error: TandemError) -> tuple[grpc.StatusCode, Status]:
    """Return the code and the google.rpc.Status of `error`, details included."""
    code = status_code(error)
    text = _shortened(str(error))
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, InvalidRequest):
        description = _shortened(error.description)
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=description)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded | Unavailable):
        retry_delay = Duration()
        retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=retry_delay))
    status = Status(code=code.value[0], message=text)
    for detail in details:
        status.details.add().Pack(detail)
    return code, status


def status_code(error: TandemError) -> grpc.StatusCode:
    """Return the code that `error` becomes."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), grpc.StatusCode.INTERNAL)


def _shortened(text: str) -> str:
    return text.encode(errors="replace")[:MAX_TEXT_BYTES].decode(errors="ignore")


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: TandemError) -> NoReturn:
    """End the call with the status of `error`."""
    code, status = to_status(error)
    trailers = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(code, status.message, trailers)
    raise AssertionError("grpc's abort returned")


def translated(handler: Handler) -> Handler:
    """Decorate a servicer's method (a coroutine or an async generator) so that its errors become statuses.

    TandemError becomes its own status. Anything else but cancellation becomes INTERNAL with a fixed text:
    its kind and where it came from stay in the log.
    """
    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def stream(self: Any, request: Any, context: Any) -> Any:
            try:
                async with aclosing(handler(self, request, context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:
                await _abort_for(context, error, handler)

        return cast(Handler, stream)

    @functools.wraps(handler)
    async def unary(self: Any, request: Any, context: Any) -> Any:
        try:
            return await handler(self, request, context)
        except Exception as error:
            await _abort_for(context, error, handler)

    return cast(Handler, unary)


async def _abort_for(context: Any, error: Exception, handler: Callable[..., Any]) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.InternalError):
        # What grpc.aio raises from a write to a client that is gone, where the cancellation has not come through yet.
        raise asyncio.CancelledError from error
    if not isinstance(error, TandemError):
        log.error("%s failed: %s", handler.__qualname__, without_words(error))
        error = TandemError("internal error")
    await abort(context, error)


def read_status(error: grpc.RpcError) -> Status | None:
    """Return the google.rpc.Status that came with `error`, or None where the peer sent none."""
    for key, value in (error.trailing_metadata() if isinstance(error, grpc.aio.AioRpcError) else None) or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:
                return None
    return None


def read_error(error: grpc.RpcError) -> str:
    """Return one line for people: what went wrong, which field is at fault, whether waiting helps."""
    assert isinstance(error, grpc.aio.AioRpcError)
    kind = error.code().name.lower().replace("_", " ")
    text = error.details() or "no details"
    wait = ""
    status = read_status(error)
    for detail in status.details if status else ():
        bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad_request):
            text = "; ".join(f"{v.field}: {v.description}" for v in bad_request.field_violations)
        elif detail.Unpack(retry):
            wait = f" (try again in {retry.retry_delay.ToMilliseconds() / 1000:g} s)"
    return " ".join(f"{kind}: {text}{wait}".split())
