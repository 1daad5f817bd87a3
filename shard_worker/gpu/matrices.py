"""A model's matrices as the kernels read them: the checkpoint's own layout, nothing packed anew."""

from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingsError
from shard_worker.model.linear import FloatLinear, Int4Linear, Int8Linear, Linear
from shard_worker.model.llama import Llama


@dataclass(frozen=True)
class Matrix:
    """w[N, K], contiguous. int8 has scale float32[N]; int4 has scale and zero [N, ceil(K / group_size)]."""

    weight: Tensor
    columns: int
    scale: Tensor | None = None
    zero: Tensor | None = None
    group_size: int | None = None

    @property
    def rows(self) -> int:
        """Number of outputs, N."""
        return len(self.weight)

    @property
    def num_bytes(self) -> int:
        """What a step reads."""
        return sum(tensor.nbytes for tensor in (self.weight, self.scale, self.zero) if tensor is not None)


def matrix_of(linear: Linear) -> Matrix:
    """Return a linear layer's weights without a copy. Raises SettingsError for a form that no kernel knows."""
    match linear:
        case FloatLinear() if linear.weight.dtype in (torch.float32, torch.bfloat16):
            return Matrix(linear.weight.detach().contiguous(), linear.in_features)
        case Int8Linear():
            return Matrix(linear.q.contiguous(), linear.in_features, linear.scale.float().contiguous())
        case Int4Linear() if linear.group_size.bit_count() == 1 and linear.group_size >= 2:
            scale, zero = linear.scale.contiguous(), linear.zero.contiguous()
            return Matrix(linear.q.contiguous(), linear.in_features, scale, zero, linear.group_size)
    raise SettingsError(f"no kernel for {type(linear).__name__}")


def head_matrix(model: Llama) -> Matrix:
    """Return the head in the narrowest type that holds it exactly; the embedding's own memory where they are tied."""
    if not isinstance(model.head, FloatLinear):
        return matrix_of(model.head)
    exact = model.head.weight
    if isinstance(model.embedding, FloatLinear) and torch.equal(model.embedding.weight.float(), exact):
        return matrix_of(model.embedding)
    narrow = exact.bfloat16()
    return Matrix(narrow if torch.equal(narrow.float(), exact) else exact.detach(), exact.shape[1])
