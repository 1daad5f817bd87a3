"""The flags that say how to reach a gateway and be let in; without grpc, which --help does not wait for"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

DEFAULT_ADDRESS = "127.0.0.1:50051"

F = TypeVar("F", bound=Callable[..., Any])


def _file_option(name: str, text: str) -> Callable[[F], F]:
    variable = f"TANDEM_{name.upper().replace('-', '_')}"
    return click.option(
        f"--{name}", type=click.Path(dir_okay=False, path_type=Path), envvar=variable, show_envvar=True, help=text
    )


ADDRESS_OPTION = click.option(
    "--address",
    default=DEFAULT_ADDRESS,
    envvar="TANDEM_ADDRESS",
    show_default=True,
    show_envvar=True,
    help="address of the gateway",
)
# How to talk to it; `gateway_address.read_gateway` reads them.
CONNECTION_OPTIONS = (
    _file_option("tls-ca", "PEM file of the authorities of the gateway's certificate; turns TLS on"),
    _file_option("tls-cert", "PEM file of the certificate to show, where the gateway asks for one"),
    _file_option("tls-key", "PEM file of that certificate's key"),
    _file_option("token-file", "file that holds the token to call with"),
    click.option("--allow-plaintext", is_flag=True, help="send the token without TLS beyond this machine too"),
)
CONNECTION_NAMES = ("tls_ca", "tls_cert", "tls_key", "token_file", "allow_plaintext")
