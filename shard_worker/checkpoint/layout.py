"""Which tensors a checkpoint holds: the one list that reading, writing and conversion are checked against."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

from common.manifest import UNQUANTIZED, Architecture, Quantization

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SAFETENSORS_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "U8": torch.uint8,
}


@dataclass(frozen=True)
class TensorSpec:
    """Full shape and stored type of one tensor. Linear weights are [output features, input features]."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class MatrixFormat:
    """How one matrix is stored. `group_size` counts columns and is None except for int4."""

    mode: Literal["none", "int8", "int4"]
    group_size: int | None = None


def matrix_format(name: str, quantization: Quantization) -> MatrixFormat:
    """Return how the matrix `name`, such as layers.0.attention.query.weight, is stored."""
    if name in ("embedding.weight", "head.weight"):
        return MatrixFormat(quantization.embedding)
    if name.endswith(".attention.output.weight"):
        return MatrixFormat(quantization.mode, quantization.head_group_size)
    return MatrixFormat(quantization.mode, quantization.group_size)


def expected_tensors(
    architecture: Architecture, dtype: Dtype, quantization: Quantization = UNQUANTIZED
) -> dict[str, TensorSpec]:
    """Return every tensor of a checkpoint of `architecture` by name, in the order of computation.

    `dtype` and `quantization` are the manifest's. Norm weights are float32 whatever they are: they are small, and norms
    run in float32. A quantised matrix is stored as NAME.q, NAME.scale and, for int4, NAME.zero.
    """
    tensors = {}
    for name, shape in weight_shapes(architecture).items():
        if len(shape) == 1:
            tensors[name] = TensorSpec(shape, torch.float32)
        else:
            tensors |= _stored_matrix(name, shape, DTYPES[dtype], matrix_format(name, quantization))
    return tensors


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight: norms [M], matrices [output features, input features]."""
    a = architecture
    query_size, kv_size = a.query_heads * a.head_dim, a.kv_heads * a.head_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (a.vocabulary_size, a.hidden_size)}
    for i in range(a.layers):
        shapes |= {
            f"layers.{i}.attention_norm.weight": (a.hidden_size,),
            f"layers.{i}.attention.query.weight": (query_size, a.hidden_size),
            f"layers.{i}.attention.key.weight": (kv_size, a.hidden_size),
            f"layers.{i}.attention.value.weight": (kv_size, a.hidden_size),
            f"layers.{i}.attention.output.weight": (a.hidden_size, query_size),
            f"layers.{i}.feed_forward_norm.weight": (a.hidden_size,),
            f"layers.{i}.feed_forward.gate.weight": (a.intermediate_size, a.hidden_size),
            f"layers.{i}.feed_forward.up.weight": (a.intermediate_size, a.hidden_size),
            f"layers.{i}.feed_forward.down.weight": (a.hidden_size, a.intermediate_size),
        }
    shapes["norm.weight"] = (a.hidden_size,)
    if not a.tied_embeddings:
        shapes["head.weight"] = (a.vocabulary_size, a.hidden_size)
    return shapes


def _stored_matrix(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, stored: MatrixFormat
) -> dict[str, TensorSpec]:
    rows, columns = shape
    match stored.mode:
        case "none":
            return {name: TensorSpec(shape, dtype)}
        case "int8":
            return {
                f"{name}.q": TensorSpec(shape, torch.int8),
                f"{name}.scale": TensorSpec((rows,), torch.float32),
            }
        case "int4":
            assert stored.group_size is not None
            groups = (rows, -(-columns // stored.group_size))
            return {
                f"{name}.q": TensorSpec((rows, -(-columns // 2)), torch.uint8),
                f"{name}.scale": TensorSpec(groups, torch.bfloat16),
                f"{name}.zero": TensorSpec(groups, torch.bfloat16),
            }
