"""Who may call? Checked for every method of a server but health, also for those that do not exist

grpc.aio's interceptors see a call's method and metadata before its handler is chosen, but the peer's certificate only
in the handler's context: so the token is judged at once, without a look at the request, the certificate in a wrapper.
"""

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from common.errors import PermissionDenied, TandemError
from common.health import HEALTH_SERVICE
from common.status import abort

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# Properties of grpc's auth context: the DNS and URI names in a verified certificate, and no other kinds of names.
NAMES_OF_PEER = ("peer_dns", "peer_uri")


class Guard(grpc.aio.ServerInterceptor):
    """Lets calls through that both rules pass. A rule returns, or raises the TandemError that the caller gets."""

    def __init__(
        self,
        metadata_rule: Callable[[Metadata], object] = lambda metadata: None,
        peers: Iterable[str] | None = None,
    ) -> None:
        """`peers` are the names of which a caller's certificate must hold one; None asks for no certificate."""
        self._metadata_rule = metadata_rule
        self._peers = frozenset(peers) if peers is not None else None

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the method's own handler, wrapped, or one that refuses."""
        handler = await continuation(handler_call_details)
        if str(handler_call_details.method).startswith(f"/{HEALTH_SERVICE}/") and handler is not None:
            return handler
        try:
            self._metadata_rule(handler_call_details.invocation_metadata)
        except TandemError as error:
            return _refusal(error)
        if self._peers is None:
            return handler or _unknown()
        return self._wrapped(handler or _unknown(), self._peers)

    def _wrapped(self, handler: Handler, peers: frozenset[str]) -> Handler:
        kinds = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
        (kind,) = (name for name in kinds if getattr(handler, name) is not None)
        method: Any = getattr(handler, kind)
        # Not even parsed before the caller is known; a stream is read by its method only.
        parse: Any = None if handler.request_streaming else handler.request_deserializer

        async def admit(context: Context) -> None:
            if peers.isdisjoint(names_of_peer(context.auth_context())):
                await abort(context, PermissionDenied("this caller is not let in"))

        async def call(request: Any, context: Context) -> Any:
            await admit(context)
            return await method(parse(request) if parse else request, context)

        async def stream(request: Any, context: Context) -> Any:
            await admit(context)
            async with aclosing(method(parse(request) if parse else request, context)) as responses:
                async for response in responses:
                    yield response

        fields: dict[str, Any] = {kind: stream if inspect.isasyncgenfunction(method) else call}
        if not handler.request_streaming:
            fields["request_deserializer"] = None
        changed: Handler = handler._replace(**fields)  # type: ignore[attr-defined]
        return changed


def names_of_peer(auth_context: Mapping[str, Iterable[bytes]]) -> set[str]:
    """Return the DNS and URI names in the certificate that the peer has shown; none in plaintext."""
    return {name.decode(errors="replace") for kind in NAMES_OF_PEER for name in auth_context.get(kind, ())}


def _refusal(error: TandemError) -> Handler:
    """Return a handler that ends any kind of call with `error` and reads nothing of it."""

    async def refuse(requests: Any, context: Context) -> None:
        await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _unknown() -> Handler:
    async def unknown(requests: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")

    return grpc.stream_stream_rpc_method_handler(unknown)
