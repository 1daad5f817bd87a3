"""Which tensors a checkpoint holds: the one list that reading, writing and conversion are checked against."""

import math
from dataclasses import dataclass

import torch

from common.manifest import UNQUANTIZED, Architecture, Quantization
from shard_worker.checkpoint.weight_shapes import Dtype, matrix_format, stored_parts, weight_shapes

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
HEAD_IDS = "head.ids"
SAFETENSORS_DTYPES = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
}


@dataclass(frozen=True)
class TensorSpec:
    """Full shape and stored type of one tensor. Linear weights are [output features, input features]."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def expected_tensors(
    architecture: Architecture, dtype: Dtype, quantization: Quantization = UNQUANTIZED
) -> dict[str, TensorSpec]:
    """Return every tensor of a checkpoint of `architecture` by name, in the order of computation.

    `dtype` and `quantization` are the manifest's. Norm weights and biases are float32 whatever they are: they are
    small, and norms run in float32. A quantised matrix is stored as NAME.q, NAME.scale and, for int4, NAME.zero. The
    tokens of a trimmed head's rows are int32, rising.
    """
    tensors = {}
    for name, shape in weight_shapes(architecture).items():
        if len(shape) == 1:
            tensors[name] = TensorSpec(shape, torch.float32)
        else:
            parts = stored_parts(shape, dtype, matrix_format(name, quantization))
            tensors |= {name + suffix: TensorSpec(part, getattr(torch, kind)) for suffix, (part, kind) in parts.items()}
    if architecture.head_size is not None:
        tensors[HEAD_IDS] = TensorSpec((architecture.head_size,), torch.int32)
    return tensors
