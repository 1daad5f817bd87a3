"""What can be set on a draft worker."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from common.service_settings import ServiceSettings


class DraftSettings(ServiceSettings):
    """Settings of one draft worker."""

    proposer: Literal["model", "ngram"] = Field(
        default="model", description="propose with a model, or from each request's own text (no model is needed)"
    )
    model: Path | None = Field(default=None, description="folder of the draft's checkpoint, for --proposer model")
    listen: str = Field(default="127.0.0.1:50070", description="address to serve on, host:port or unix:/path")
    metrics_listen: str = Field(
        default="", description="address of the HTTP endpoint that Prometheus scrapes, host:port; empty for none"
    )
    device: str = Field(default="cpu", description="torch device: cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="type of weights and KV cache")
    threads: PositiveInt | None = Field(default=None, description="CPU threads of the model; default: all cores")
    kv_cache_tokens: PositiveInt | None = Field(
        default=None, description="positions the KV cache holds; default: a share of the device's free memory"
    )
    block_size_tokens: PositiveInt = Field(
        default=4, description="positions in one KV block; a side line reads at most so many anew"
    )
    native: Literal["auto", "on", "off"] = Field(
        default="auto", description="native CPU kernels: on fails where they cannot be used, auto goes on without"
    )
    max_requests: PositiveInt = Field(
        default=1024, description="requests remembered; past it the least recently used is forgotten"
    )
    max_count: Annotated[int, Field(ge=1, le=64)] = Field(default=16, description="most tokens in one proposal")
    max_step_rows: PositiveInt = Field(default=64, description="most lines of text that one step continues")
    prefill_chunk_tokens: PositiveInt = Field(
        default=64, description="most ids one step reads of texts not read yet; a step is what a new ask waits for"
    )
    run_ahead: bool = Field(
        default=True, description="go on drafting while the target verifies; off where both share the same cores"
    )
    run_ahead_rows: PositiveInt = Field(
        default=8, description="most lines that one step of run-ahead continues; a new ask waits for that step"
    )
    side_lines: NonNegativeInt = Field(
        default=1, description="how many likely mismatches to continue from in run-ahead, beside the draft's own line"
    )
    temperature_factor: PositiveFloat | None = Field(
        default=None,
        description="beta: the draft draws at the request's temperature times this; default: what "
        "`tandem calibrate-draft` stored beside the checkpoint, else 1",
    )
    drain_budget_s: PositiveFloat = Field(default=10.0, description="time asked proposals get to finish on shutdown")
