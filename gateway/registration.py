"""The service on a server, with requests parsed by us: what cannot be parsed is the caller's mistake, not ours."""

import functools
from collections.abc import Callable
from contextlib import aclosing, closing
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from common.errors import DeadlineExceeded, InvalidRequest
from common.status import translated
from common.telemetry.tracer import OFF, Tracer
from gateway.metrics.call_metrics import CallMetrics
from gateway.request_trace import RequestTrace
from gateway.service import InferenceService
from gateway.time_limit import TimeLimit
from tandem.v1 import inference_service_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"]


def register(
    service: InferenceService,
    server: grpc.aio.Server,
    write_timeout_s: float,
    metrics: CallMetrics | None = None,
    tracer: Tracer = OFF,
) -> None:
    """Add every method of the public contract to `server`. A stream whose client takes nothing for
    `write_timeout_s` is ended. Calls are counted in `metrics`, and each is a span of `tracer`."""
    counted = metrics.counted if metrics is not None else lambda _, handler: handler
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
    for name, method in SERVICE.methods_by_name.items():
        begin = functools.partial(RequestTrace, tracer, f"{SERVICE.full_name}/{name}")
        call = Call(getattr(service, name), getattr(pb, method.input_type.name), write_timeout_s, begin)
        serializer = getattr(pb, method.output_type.name).SerializeToString
        if method.server_streaming:
            stream = counted(name, functools.partial(Call.stream, call))
            handlers[name] = grpc.unary_stream_rpc_method_handler(stream, response_serializer=serializer)
        else:
            unary = counted(name, functools.partial(Call.unary, call))
            handlers[name] = grpc.unary_unary_rpc_method_handler(unary, response_serializer=serializer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))


Context = grpc.aio.ServicerContext[Any, Any]


class Call:
    """One method of the contract, from bytes to messages; the border at which errors become statuses."""

    def __init__(
        self,
        method: Any,
        request_type: type[Message],
        write_timeout_s: float,
        begin: Callable[[Context], RequestTrace],
    ) -> None:
        self._begin = begin
        self._method = method
        self._request_type = request_type
        self._write_timeout_s = write_timeout_s

    @translated
    async def unary(self, data: bytes, context: Context) -> Message:
        """Answer with one message."""
        with self._begin(context) as trace:
            response: Message = await self._method(self._parse(data), context, trace)
            return response

    @translated
    async def stream(self, data: bytes, context: Context) -> None:
        """Answer with a stream of messages."""
        with self._begin(context) as trace, closing(TimeLimit(self._write_timeout_s)) as limit:
            async with aclosing(self._method(self._parse(data), context, trace)) as responses:
                async for response in responses:
                    try:
                        with limit:
                            await context.write(response)
                    except TimeoutError:
                        raise DeadlineExceeded(f"nothing was read for {self._write_timeout_s:g} s") from None

    def _parse(self, data: bytes) -> Message:
        try:
            return self._request_type.FromString(data)
        except DecodeError:
            name = self._request_type.DESCRIPTOR.name
            raise InvalidRequest("", f"not a valid {name}: wrong wire types, or text that is not UTF-8") from None
