"""What every service takes about who may connect to it, and how its health is asked"""

from pathlib import Path

from pydantic import Field, PositiveFloat

from common.settings import Settings


class ServiceSettings(Settings):
    """Base of the settings of everything that listens. `common.listening` acts on them and checks that they fit."""

    tls_cert: Path | None = Field(
        default=None, description="PEM file of the certificate (chain) to serve TLS with; read anew when it changes"
    )
    tls_key: Path | None = Field(default=None, description="PEM file of that certificate's private key, unencrypted")
    tls_ca: Path | None = Field(
        default=None, description="PEM file of the authorities whose certificates callers must show; workers need it"
    )
    tls_peers: tuple[str, ...] = Field(
        default=(), description="callers let in, with --tls-ca: DNS or URI names in their certificates; nobody else is"
    )
    allow_plaintext: bool = Field(
        default=False, description="talk without TLS beyond this machine too; anybody on the way reads and changes it"
    )
    health_listen: str = Field(
        default="",
        description="further address, host:port or unix:/path, that answers health checks only, always in plaintext",
    )
    stall_timeout_s: PositiveFloat = Field(
        default=60.0,
        description="work without progress for so long, beyond the time one step may take, makes the health service "
        "`live` NOT_SERVING",
    )
