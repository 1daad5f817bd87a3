"""Which gateway to talk to, and how: address, TLS, token"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from common.commands.connection_options import ADDRESS_OPTION, CONNECTION_NAMES, CONNECTION_OPTIONS
from common.errors import SettingsError
from common.plaintext import refuse_plaintext
from common.tls import ClientTls, TlsFiles

MAX_TOKEN_CHARS = 4096

F = TypeVar("F", bound=Callable[..., Any])


class GatewayAddress(NamedTuple):
    """A gateway, and what it takes to be let in. Without `tls` it is spoken to in plaintext."""

    address: str
    tls: ClientTls | None = None
    token: str | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token is not None else ()

    def __repr__(self) -> str:
        return f"GatewayAddress({self.address!r})"


def gateway_address_options(command: F) -> F:
    """Give a click command the flags of a gateway; they arrive as one argument, `gateway`, a GatewayAddress."""

    @functools.wraps(command)
    def with_gateway(address: str, **flags: Any) -> Any:
        connection = {name: flags.pop(name) for name in CONNECTION_NAMES}
        return command(gateway=read_gateway(address, connection), **flags)

    wrapped: Any = with_gateway
    for option in reversed((ADDRESS_OPTION, *CONNECTION_OPTIONS)):
        wrapped = option(wrapped)
    result: F = wrapped
    return result


def read_gateway(address: str, flags: Mapping[str, Any]) -> GatewayAddress:
    """Return the gateway at `address` that CONNECTION_OPTIONS say how to talk to.

    Raises click.UsageError and SettingsError where they do not fit together or files cannot be read.
    """
    tls_ca, tls_cert, tls_key, token_file, allow_plaintext = (flags[name] for name in CONNECTION_NAMES)
    if tls_ca is None and (tls_cert or tls_key):
        raise click.UsageError("--tls-cert and --tls-key need --tls-ca")
    tls = ClientTls(TlsFiles(tls_cert, tls_key, tls_ca)) if tls_ca is not None else None
    if token_file is not None and tls is None and not allow_plaintext:
        refuse_plaintext([address], "sending the token to", "give --tls-ca, or allow it with --allow-plaintext")
    return GatewayAddress(address, tls, read_token(token_file) if token_file is not None else None)


def read_token(path: Path) -> str:
    """Return the token in a file, without the white space around it. Raises SettingsError, which never quotes it."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: no token: not ASCII") from None
    if not token.isprintable() or " " in token or not 0 < len(token) <= MAX_TOKEN_CHARS:
        raise SettingsError(f"{path}: no token: one word of at most {MAX_TOKEN_CHARS} characters is expected")
    return token
