"""What can be set on a rank."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from common.service_settings import ServiceSettings


class ShardSettings(ServiceSettings):
    """Settings of one rank of a tensor-parallel group."""

    model: Path = Field(description="folder of the checkpoint")
    rank: NonNegativeInt = Field(default=0, description="this rank, from 0")
    tp: PositiveInt = Field(default=1, description="number of ranks in the group")
    rendezvous: str = Field(
        default="",
        description="where the ranks of the group meet: tcp://host:port of rank 0, or file:///path on one host; "
        "not needed with one rank",
    )
    listen: str = Field(default="127.0.0.1:50060", description="address to serve on, host:port or unix:/path")
    metrics_listen: str = Field(
        default="", description="address of the HTTP endpoint that Prometheus scrapes, host:port; empty for none"
    )
    device: str = Field(default="cpu", description="torch device: cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "bfloat16"] = Field(default="bfloat16", description="type of weights and KV cache")
    threads: PositiveInt | None = Field(default=None, description="CPU threads of the model; default: cores / ranks")
    kv_cache_tokens: PositiveInt | None = Field(
        default=None, description="positions the KV cache holds; default: a share of the device's free memory"
    )
    block_size_tokens: PositiveInt = Field(default=16, description="positions in one KV block")
    max_step_tokens: PositiveInt = Field(default=2048, description="most token ids in one step")
    native: Literal["auto", "on", "off"] = Field(
        default="auto", description="native CPU kernels: on fails where they cannot be used, auto goes on without"
    )
    compact_weights: bool = Field(
        default=True,
        description="hold bfloat16 matrices at 12 bits a weight, without loss, where native CPU kernels multiply them",
    )
    gpu_kernels: Literal["auto", "on", "unrecorded", "off"] = Field(
        default="auto",
        description="fused kernels for decode steps on a GPU, recorded as graphs: on fails where they cannot be used, "
        "auto goes on without, unrecorded launches them one by one",
    )
    attention: Literal["fast", "reference"] = Field(default="fast", description="attention path")
    collective_timeout_s: PositiveFloat = Field(default=60.0, description="a longer collective ends the group")
    rendezvous_timeout_s: PositiveFloat | None = Field(
        default=None,
        description="time the ranks of other hosts get to come, which may have images to pull; "
        "default: collective_timeout_s",
    )
    collectives: Literal["auto", "shared-memory", "torch"] = Field(
        default="auto",
        description="how ranks add up: through shared memory, by torch.distributed, or (auto) the first wherever all "
        "of them run on the CPUs of one host",
    )
    drain_budget_s: PositiveFloat = Field(default=30.0, description="time the gateway gets to leave for another group")
