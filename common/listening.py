"""How a server takes its addresses, and how its process learns that it failed"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from common.channel import INTERNAL_MESSAGE_BYTES, server_options
from common.errors import SettingsError
from common.guard import Guard
from common.health import HealthBoard
from common.plaintext import refuse_plaintext
from common.service_settings import ServiceSettings
from common.tls import TlsFiles, server_credentials


def worker_server(listen: str, service_name: str, settings: ServiceSettings) -> tuple[grpc.aio.Server, HealthBoard]:
    """Return a server for gateways that is bound to `listen` and not started yet, and its health, NOT_SERVING.

    With TLS it lets in the callers that the settings name. Raises SettingsError when the address cannot be had, or
    others could listen in.
    """
    _check_unused(listen)
    peers = peers_asked_for(listen, settings)
    refuse_plaintext_port(listen, settings)
    if settings.tls_cert is not None and peers is None and not listen.startswith("unix:"):
        raise SettingsError("a worker that serves TLS must know its callers: set --tls-ca and --tls-peers")
    guards = [Guard(peers=peers)] if peers is not None else []
    server = grpc.aio.server(options=server_options(INTERNAL_MESSAGE_BYTES), interceptors=guards)
    health = HealthBoard([service_name])
    health.add_to(server)
    add_port(server, listen, settings)
    return server, health


def add_port(server: grpc.aio.Server, listen: str, settings: ServiceSettings) -> int:
    """Bind `server` to `listen`, with TLS where the settings have a certificate, and return the port.

    Unix sockets are plaintext always. Raises SettingsError when the address cannot be had, when the certificate cannot
    be used, or when it would be plaintext beyond this machine.
    """
    try:
        if settings.tls_cert is not None and not listen.startswith("unix:"):
            files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_ca)
            return server.add_secure_port(listen, server_credentials(files))
        refuse_plaintext_port(listen, settings)
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {listen}: {error}") from error


def refuse_plaintext_port(listen: str, settings: ServiceSettings) -> None:
    """Raise SettingsError where others could listen in on a port without TLS and nobody has allowed it."""
    if settings.tls_cert is None and not settings.allow_plaintext:
        ways_out = "set --tls-cert and --tls-key, or allow it with --allow-plaintext"
        refuse_plaintext([listen], "listening on", ways_out)


def peers_asked_for(listen: str, settings: ServiceSettings) -> Sequence[str] | None:
    """Return the callers' names of which a certificate must hold one; None where callers show no certificate.

    Raises SettingsError where what is set does not go together, and nobody or anybody would be let in.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError("--tls-cert and --tls-key are needed together")
    if (settings.tls_ca is None) != (not settings.tls_peers):
        raise SettingsError("--tls-ca says whose certificates are believed, --tls-peers which callers: set both")
    if settings.tls_ca is not None and settings.tls_cert is None:
        raise SettingsError("--tls-ca does nothing without --tls-cert and --tls-key")
    return settings.tls_peers if settings.tls_ca is not None and not listen.startswith("unix:") else None


@asynccontextmanager
async def health_port(listen: str, health: HealthBoard) -> AsyncIterator[None]:
    """Answer health checks, and nothing else, on `listen` too while the context lasts; nowhere where it is empty.

    Raises SettingsError when the address cannot be had.
    """
    if not listen:
        yield
        return
    _check_unused(listen)
    server = grpc.aio.server(options=server_options())
    health.add_to(server)
    try:
        server.add_insecure_port(listen)
    except RuntimeError as error:
        raise SettingsError(f"cannot listen on {listen}: {error}") from error
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


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
