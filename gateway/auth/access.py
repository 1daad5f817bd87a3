"""What do the settings say about who may come in, and how workers are reached? The unsafe is refused at the start"""

import grpc

from common.channel import server_options
from common.errors import SettingsError
from common.guard import Guard
from common.listening import add_port, peers_asked_for, refuse_plaintext_port
from common.plaintext import is_local, refuse_plaintext
from common.tls import ClientTls, TlsFiles
from gateway.auth.callers import Callers
from gateway.settings import GatewaySettings


def guarded_server(settings: GatewaySettings, callers: Callers) -> tuple[grpc.aio.Server, int]:
    """Return a server bound to its address, not started, and the port. Every method but health asks for what the
    settings ask for: a token, a certificate, or both.

    Raises SettingsError where the address cannot be had, or more than was allowed in words would be open.
    """
    peers = peers_asked_for(settings.listen, settings)
    refuse_plaintext_port(settings.listen, settings)
    if settings.tenants is None and peers is None and not settings.allow_anonymous and not is_local(settings.listen):
        raise SettingsError(
            f"anybody who reaches {settings.listen} could use the model: set --tenants (`tandem token` makes tokens) "
            "or --tls-ca and --tls-peers, or allow it with --allow-anonymous"
        )
    server = grpc.aio.server(
        options=server_options(settings.max_message_bytes), interceptors=[Guard(callers.identify, peers)]
    )
    return server, add_port(server, settings.listen, settings)


def worker_tls(settings: GatewaySettings, server_name: str) -> ClientTls | None:
    """Return how workers are spoken to whose certificates hold `server_name`; None in plaintext.

    Raises SettingsError where files cannot be used, or others could listen in and nobody has allowed it.
    """
    files = TlsFiles(settings.worker_tls_cert, settings.worker_tls_key, settings.worker_tls_ca)
    if any(files):
        if not all(files):
            raise SettingsError("--worker-tls-cert, --worker-tls-key and --worker-tls-ca are needed together")
        return ClientTls(files, server_name)
    if not settings.allow_plaintext:
        ways_out = "set --worker-tls-cert, --worker-tls-key and --worker-tls-ca, or allow it with --allow-plaintext"
        refuse_plaintext((*settings.ranks, *settings.groups, *settings.drafts), "the link to the worker", ways_out)
    return None
