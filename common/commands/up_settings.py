"""What can be set on `tandem up`."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from common.model_store import EMBEDDED_MODEL
from common.settings import Settings

_LIKE_GATEWAY = "as in `tandem serve gateway`"
_LIKE_SHARD = "as in `tandem serve shard`"


class UpSettings(Settings):
    """One gateway and `tp` ranks on this machine. None leaves the service's own default."""

    model: str = Field(default=EMBEDDED_MODEL, description="name of a model in the store, or folder of a checkpoint")
    tp: PositiveInt = Field(default=1, description="number of tensor-parallel ranks")
    device: str = Field(default="cpu", description="cpu, or cuda: rank i then takes cuda:i")
    dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="type of weights and KV cache; default: float32 on cpu, bfloat16 elsewhere"
    )
    listen: str = Field(
        default="127.0.0.1:50051", description="address to serve on, host:port; port 0 takes a free one"
    )
    tls_cert: Path | None = Field(default=None, description=_LIKE_GATEWAY)
    tls_key: Path | None = Field(default=None, description=_LIKE_GATEWAY)
    tenants: Path | None = Field(default=None, description=_LIKE_GATEWAY)
    allow_plaintext: bool | None = Field(default=None, description=_LIKE_GATEWAY)
    allow_anonymous: bool | None = Field(default=None, description=_LIKE_GATEWAY)
    metrics_listen: str = Field(
        default="", description="address where Prometheus scrapes the gateway, host:port; port 0 takes a free one"
    )
    threads: PositiveInt | None = Field(default=None, description="CPU threads of each rank; default: cores / tp")
    kv_cache_tokens: PositiveInt | None = Field(default=None, description=_LIKE_SHARD)
    drain_budget_s: PositiveFloat = Field(default=30.0, description="time running streams get to finish on shutdown")

    draft: str | None = Field(
        default=None, description="draft with this model (as --model), or `ngram`: from each request's own text"
    )
    drafts: NonNegativeInt = Field(default=1, description="number of draft workers, where --draft is given")
    max_draft_tokens: NonNegativeInt | None = Field(default=None, description=_LIKE_GATEWAY)

    max_running: PositiveInt | None = Field(default=None, description=_LIKE_GATEWAY)
    max_step_tokens: PositiveInt | None = Field(default=None, description=f"{_LIKE_GATEWAY}; the ranks take it too")
    max_prefill_chunk_tokens: PositiveInt | None = Field(default=None, description=_LIKE_GATEWAY)
    decode_slowdown_limit: PositiveFloat | None = Field(default=None, description=_LIKE_GATEWAY)
    prefix_reuse: bool | None = Field(default=None, description=_LIKE_GATEWAY)
    max_queued_requests: NonNegativeInt | None = Field(default=None, description=_LIKE_GATEWAY)

    gateway: tuple[str, ...] = Field(default=(), description="any other setting of the gateway, KEY=VALUE; repeatable")
    draft_worker: tuple[str, ...] = Field(
        default=(), description="any other setting of the draft workers, KEY=VALUE; repeatable"
    )
    shard: tuple[str, ...] = Field(default=(), description="any other setting of the ranks, KEY=VALUE; repeatable")
