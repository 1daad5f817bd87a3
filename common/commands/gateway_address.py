"""The flags that say which gateway to talk to, and how: address, TLS, token"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from common.errors import SettingsError
from common.plaintext import refuse_plaintext
from common.tls import ClientTls, TlsFiles

DEFAULT_ADDRESS = "127.0.0.1:50051"
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


def _file_option(name: str, text: str) -> Callable[[F], F]:
    variable = f"TANDEM_{name.upper().replace('-', '_')}"
    return click.option(
        f"--{name}", type=click.Path(dir_okay=False, path_type=Path), envvar=variable, show_envvar=True, help=text
    )


_OPTIONS = (
    click.option(
        "--address",
        default=DEFAULT_ADDRESS,
        envvar="TANDEM_ADDRESS",
        show_default=True,
        show_envvar=True,
        help="address of the gateway",
    ),
    _file_option("tls-ca", "PEM file of the authorities of the gateway's certificate; turns TLS on"),
    _file_option("tls-cert", "PEM file of the certificate to show, where the gateway asks for one"),
    _file_option("tls-key", "PEM file of that certificate's key"),
    _file_option("token-file", "file that holds the token to call with"),
    click.option("--allow-plaintext", is_flag=True, help="send the token without TLS beyond this machine too"),
)


def gateway_address_options(command: F) -> F:
    """Give a click command the flags of a gateway; they arrive as one argument, `gateway`, a GatewayAddress."""

    @functools.wraps(command)
    def with_gateway(
        address: str,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        token_file: Path | None,
        allow_plaintext: bool,
        **others: Any,
    ) -> Any:
        if tls_ca is None and (tls_cert or tls_key):
            raise click.UsageError("--tls-cert and --tls-key need --tls-ca")
        tls = ClientTls(TlsFiles(tls_cert, tls_key, tls_ca)) if tls_ca is not None else None
        if token_file is not None and tls is None and not allow_plaintext:
            refuse_plaintext([address], "sending the token to", "give --tls-ca, or allow it with --allow-plaintext")
        token = read_token(token_file) if token_file is not None else None
        return command(gateway=GatewayAddress(address, tls, token), **others)

    wrapped: Any = with_gateway
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    result: F = wrapped
    return result


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
