"""Which tensors a checkpoint holds: the one list that reading, writing and conversion are checked against."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from common.manifest import Architecture

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class TensorSpec:
    """Full shape and stored type of one tensor. Linear weights are [output features, input features]."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def expected_tensors(architecture: Architecture, dtype: Dtype) -> dict[str, TensorSpec]:
    """Return every tensor of a checkpoint of `architecture` by name, in the order of computation.

    `dtype` is the manifest's. Norm weights are float32 whatever it is: they are small, and norms run in
    float32.
    """
    a, linear_dtype = architecture, DTYPES[dtype]
    query_size, kv_size = a.query_heads * a.head_dim, a.kv_heads * a.head_dim

    def norm() -> TensorSpec:
        return TensorSpec((a.hidden_size,), torch.float32)

    def linear(outputs: int, inputs: int) -> TensorSpec:
        return TensorSpec((outputs, inputs), linear_dtype)

    tensors = {"embedding.weight": linear(a.vocabulary_size, a.hidden_size)}
    for i in range(a.layers):
        tensors |= {
            f"layers.{i}.attention_norm.weight": norm(),
            f"layers.{i}.attention.query.weight": linear(query_size, a.hidden_size),
            f"layers.{i}.attention.key.weight": linear(kv_size, a.hidden_size),
            f"layers.{i}.attention.value.weight": linear(kv_size, a.hidden_size),
            f"layers.{i}.attention.output.weight": linear(a.hidden_size, query_size),
            f"layers.{i}.feed_forward_norm.weight": norm(),
            f"layers.{i}.feed_forward.gate.weight": linear(a.intermediate_size, a.hidden_size),
            f"layers.{i}.feed_forward.up.weight": linear(a.intermediate_size, a.hidden_size),
            f"layers.{i}.feed_forward.down.weight": linear(a.hidden_size, a.intermediate_size),
        }
    tensors["norm.weight"] = norm()
    if not a.tied_embeddings:
        tensors["head.weight"] = linear(a.vocabulary_size, a.hidden_size)
    return tensors
