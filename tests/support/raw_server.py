"""A gRPC server of a few plain functions on bytes, below any proto, and the channel to it."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from common import channel
from common.channel import server_options
from common.health import HealthBoard

Handlers = dict[str, Any]


def open_channel(address: str, *args: Any, **kwargs: Any) -> Any:
    """As in common.channel; untyped, since no stub types the methods called here."""
    return channel.open_channel(address, *args, **kwargs)


@asynccontextmanager
async def raw_server(
    handlers: Handlers,
    options: Sequence[tuple[str, int]] | None = None,
    listen: str = "127.0.0.1:0",
) -> AsyncIterator[str]:
    """Serve `handlers` by name as /test/NAME, and health; yields the address. At exit it ends calls that still run."""
    server = grpc.aio.server(options=server_options(1 << 20) if options is None else options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    HealthBoard().add_to(server)
    port = server.add_insecure_port(listen)
    await server.start()
    try:
        yield re.sub(":0$", f":{port}", listen)
    finally:
        await server.stop(0)
