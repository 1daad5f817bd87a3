"""What can be set on one host's part of a rank group."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from common.settings import Settings

Port = Annotated[int, Field(ge=1, le=65535)]


class RankHostSettings(Settings):
    """Settings of the process that runs a host's ranks. What the ranks themselves take comes from TANDEM_SHARD_*."""

    hosts: tuple[str, ...] = Field(
        default=("127.0.0.1",), min_length=1, description="names or addresses of all hosts of the group, in rank order"
    )
    host: NonNegativeInt = Field(default=0, description="which of the hosts this is, from 0")
    ranks_per_host: PositiveInt = Field(default=1, description="ranks on each host")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="cuda gives rank n of a host its GPU n")
    bind: str = Field(default="127.0.0.1", description="address the ranks listen on; 0.0.0.0 is all")
    port: Port = Field(default=50060, description="port of a host's first rank; the others follow")
    health_port: Port | None = Field(
        default=None, description="port on which the host's first rank answers health checks only, in plaintext"
    )
    tls_name: str = Field(
        default="", description="DNS name in the certificates of the group's ranks; default: each host's own name"
    )
    metrics_port: Port | None = Field(
        default=None, description="port where Prometheus scrapes a host's first rank; the others follow; default: none"
    )
    rendezvous_port: Port = Field(default=29500, description="port on the first host where ranks of several hosts meet")
    resolve_timeout_s: float = Field(
        default=300.0, gt=0, description="time the names of the other hosts get to appear in the DNS"
    )
