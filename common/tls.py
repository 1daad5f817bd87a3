"""TLS credentials from PEM files, for both ends of a connection; new files are used without a restart

Servers ask for the certificate at every handshake (grpc.dynamic_ssl_server_credentials). grpc has nothing of the kind
for clients in Python: each new channel reads the files, so that a client's next connection has them. Running
connections go on with what they began with.
"""

import ssl
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from common.errors import SettingsError
from common.watched_files import WatchedFiles

TARGET_NAME = "grpc.ssl_target_name_override"


class TlsFiles(NamedTuple):
    """Where the certificate, its key and the trusted authorities lie. A certificate and its key come together."""

    cert: Path | None
    key: Path | None
    ca: Path | None


class Pems(NamedTuple):
    """The content of TlsFiles."""

    cert: bytes | None
    key: bytes | None
    ca: bytes | None


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow the files; with `files.ca` callers must show a certificate of its authorities.

    Raises SettingsError when the files cannot be used.
    """
    watched = _watched(files)
    used = watched.value

    def fetch() -> Any:  # a configuration or None, which the stubs do not know
        nonlocal used
        newest = watched.value
        if newest is used:
            return None  # grpc keeps what it has, and with it the sessions that clients may resume
        used = newest
        return _server_configuration(newest)

    return grpc.dynamic_ssl_server_credentials(_server_configuration(used), fetch, files.ca is not None)


class ClientTls:
    """How a client proves who it is and knows its server.

    `server_name` is the DNS name that must be in the server's certificate; the address's own host where it is empty.
    """

    def __init__(self, files: TlsFiles, server_name: str = "") -> None:
        """Read the files. Without `files.ca` the authorities that grpc brings are trusted. Raises SettingsError."""
        self._watched = _watched(files)
        self._server_name = server_name

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials for one channel, of the newest files that can be used."""
        pems = self._watched.value
        return grpc.ssl_channel_credentials(pems.ca, pems.key, pems.cert)

    @property
    def options(self) -> list[tuple[str, str]]:
        """Channel options that go with the credentials."""
        return [(TARGET_NAME, self._server_name)] if self._server_name else []


def _watched(files: TlsFiles) -> WatchedFiles[Pems]:
    if (files.cert is None) != (files.key is None):
        raise SettingsError("a TLS certificate and its key are needed together")
    return WatchedFiles([path for path in files if path is not None], lambda: _read(files))


def _read(files: TlsFiles) -> Pems:
    """Read and check the files: grpc would only say that handshakes fail. Raises SettingsError or OSError."""
    pems = Pems(*(path.read_bytes() if path is not None else None for path in files))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if files.cert is not None and files.key is not None:
        try:
            # An encrypted key gets a wrong password, where OpenSSL would ask the terminal for it.
            context.load_cert_chain(files.cert, files.key, password="")
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError(
                f"{files.cert} and {files.key} are not a PEM certificate and its unencrypted key"
            ) from error
    if pems.ca is not None:
        try:
            context.load_verify_locations(cadata=pems.ca.decode("ascii"))
        except (ssl.SSLError, ValueError) as error:
            raise SettingsError(f"{files.ca}: no PEM certificates") from error
    return pems


def _server_configuration(pems: Pems) -> grpc.ServerCertificateConfiguration:
    assert pems.key is not None and pems.cert is not None
    return grpc.ssl_server_certificate_configuration([(pems.key, pems.cert)], pems.ca)
