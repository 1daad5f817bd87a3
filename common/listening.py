"""How a worker's server takes its address, and how its process learns that it failed."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, server_options
from common.errors import SettingsError
from common.health import HealthBoard


def worker_server(listen: str, service_name: str) -> tuple[grpc.aio.Server, HealthBoard]:
    """Return a server for gateways that is bound to `listen` and not started yet, and its health, NOT_SERVING.

    Raises SettingsError when the address cannot be had.
    """
    _check_unused(listen)
    server = grpc.aio.server(options=server_options(INTERNAL_MESSAGE_BYTES))
    health = HealthBoard([service_name])
    health.add_to(server)
    try:
        server.add_insecure_port(listen)
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {listen}: {error}") from error
    return server, health


def failure() -> tuple[asyncio.Future[None], Callable[[BaseException], None]]:
    """Return the future for `run_until_signalled` and what sets it; only the first failure counts."""
    failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(error: BaseException) -> None:
        if not failed.done():
            failed.set_exception(error)

    return failed, fail


def _check_unused(listen: str) -> None:
    """Raise SettingsError where another process listens on a unix socket: grpc would quietly take its place."""
    path = listen.removeprefix("unix:").removeprefix("//")
    if not listen.startswith("unix:") or not Path(path).exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:  # left behind by a process that is gone
            return
    raise SettingsError(f"cannot listen on {listen}: another process does")
