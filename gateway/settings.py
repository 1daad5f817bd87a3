"""What can be set on a gateway."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from common.service_settings import ServiceSettings
from common.step_protocol import MAX_CONTINUED_PASSES
from gateway.discovery.target import read_target
from gateway.limits import MAX_DRAFT_TOKENS


class GatewaySettings(ServiceSettings):
    """Settings of one gateway process."""

    model: Path = Field(description="folder of the checkpoint the ranks serve: manifest and tokenizer are read")
    ranks: tuple[str, ...] = Field(default=(), description="addresses of all ranks of the one group, in rank order")
    groups: tuple[str, ...] = Field(
        default=(),
        description="where hosts of rank groups are found, one of which is served with at a time: "
        "dns:///name:port, k8s:///namespace/service:port, or host:port of a host's first rank; instead of --ranks",
    )
    listen: str = Field(default="127.0.0.1:50051", description="address to serve on, host:port")
    metrics_listen: str = Field(
        default="", description="address of the HTTP endpoint that Prometheus scrapes, host:port; empty for none"
    )
    reflection: bool = Field(default=False, description="answer gRPC reflection")

    tenants: Path | None = Field(
        default=None,
        description="YAML file of tenants: hashes of their tokens and their limits; every call but health then needs a "
        "token. Read anew when it changes",
    )
    allow_anonymous: bool = Field(
        default=False,
        description="let anybody call, beyond this machine too, where neither token nor certificate is asked for",
    )
    worker_tls_cert: Path | None = Field(
        default=None, description="PEM file of the certificate that ranks and draft workers are shown"
    )
    worker_tls_key: Path | None = Field(default=None, description="PEM file of that certificate's private key")
    worker_tls_ca: Path | None = Field(
        default=None, description="PEM file of the authorities of the workers' certificates"
    )
    rank_tls_name: str = Field(
        default="", description="DNS name in the ranks' certificates; default: the host of each address"
    )
    draft_tls_name: str = Field(
        default="", description="DNS name in the draft workers' certificates; default: the host of each address"
    )

    max_running: PositiveInt = Field(default=64, description="most sequences in one step")
    max_step_tokens: PositiveInt = Field(default=512, description="most token ids in one step")
    max_prefill_chunk_tokens: PositiveInt = Field(default=512, description="most ids of one prompt in one step")
    decode_slowdown_limit: PositiveFloat = Field(
        default=2.0,
        description="prefill chunks shrink so that a step takes at most this many times a step without prefill; "
        "0 < limit <= 1 always takes the smallest chunk",
    )
    run_ahead: bool = Field(default=True, description="ranks go on by themselves while the gateway decides")
    max_tokens_per_frame: int = Field(
        default=8,
        ge=1,
        le=MAX_CONTINUED_PASSES + 1,
        description="most tokens that ranks draw for a decoding stream before they answer, where that pays",
    )
    max_frame_ms: PositiveFloat = Field(
        default=50.0,
        description="frames of several tokens take about that at most; a newcomer may have to wait for one",
    )
    drafts: tuple[str, ...] = Field(
        default=(), description="addresses of draft workers, or where they are found, as --groups"
    )
    ngram: bool = Field(default=False, description="draft from the request's own text where no worker does better")
    max_draft_tokens: int = Field(
        default=MAX_DRAFT_TOKENS,
        ge=0,
        le=MAX_DRAFT_TOKENS,
        description="most tokens drafted for one pass of one request; 0 drafts nothing",
    )
    draft_length: Literal["adaptive", "fixed"] = Field(
        default="adaptive",
        description="draft as many tokens as pay, or, for measuring only, always as many as the bounds allow, "
        "however long that takes",
    )
    kubernetes_api: str = Field(
        default="https://kubernetes.default.svc", description="the API server that k8s:/// targets are asked of"
    )
    kubernetes_credentials: Path = Field(
        default=Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="folder of the service account's token and ca.crt, for k8s:/// targets",
    )
    prefix_reuse: bool = Field(default=True, description="share KV blocks of equal prompt prefixes of one tenant")

    max_queued_requests: NonNegativeInt = Field(default=256, description="most requests that wait")
    max_queued_tokens: PositiveInt = Field(default=1 << 18, description="most prompt tokens that wait")
    max_new_tokens: PositiveInt = Field(default=8192, description="largest accepted max_tokens")
    max_message_bytes: PositiveInt = Field(default=1 << 20, description="largest accepted request message")

    trace_every_steps: NonNegativeInt = Field(
        default=100, description="of the steps that served traced requests, make one in so many a span; 0 makes none"
    )
    step_timeout_s: PositiveFloat = Field(default=60.0, description="a step not answered in time ends the rank group")
    write_timeout_s: PositiveFloat = Field(default=30.0, description="a client that reads nothing so long is dropped")
    drain_budget_s: PositiveFloat = Field(default=30.0, description="time running streams get to finish on shutdown")

    @field_validator("groups", "drafts")
    @classmethod
    def _targets_are_well_formed(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        for target in targets:
            read_target(target)
        return targets

    @field_validator("groups")
    @classmethod
    def _hosts_have_ports(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        for group in groups:
            if read_target(group).kind == "address" and not re.fullmatch(r".+:\d+", group):
                raise ValueError(f"{group}: expected host:port, behind which the host's other ranks follow")
        return groups

    @field_validator("kubernetes_api")
    @classmethod
    def _tokens_stay_secret(cls, url: str) -> str:
        if not re.fullmatch(r"https://[^/]+/?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?/?", url):
            raise ValueError("expected https://host:port; http only on this machine")
        return url
