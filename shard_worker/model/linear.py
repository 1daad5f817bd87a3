"""A matrix of the model in the form it is stored in: float, int8 or int4. Plain torch, on any device.

Shapes: N output features (or vocabulary rows), K input features; x is [..., K].
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shard_worker.quantization.formats import dequantize_int4, dequantize_int8


class Linear(nn.Module, ABC):
    """y = x wᵀ, in x's type. An embedding is one whose rows are looked up."""

    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.out_features, self.in_features = out_features, in_features

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return [..., N]."""

    @abstractmethod
    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of w at `ids`, [*ids.shape, K], in `dtype`."""


class FloatLinear(Linear):
    """w[N, K] as it is."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(*weight.shape)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self.weight[ids].to(dtype)


class Int8Linear(Linear):
    """The int8 format: q int8[N, K], scale float32[N]."""

    q: Tensor
    scale: Tensor

    def __init__(self, q: Tensor, scale: Tensor) -> None:
        super().__init__(*q.shape)
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        # Every int8 is exact in bfloat16, so the scale may come last; fused, w is then never formed.
        return (F.linear(x, self.q.to(x.dtype)) * self.scale).to(x.dtype)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        flat = ids.reshape(-1)
        return dequantize_int8(self.q[flat], self.scale[flat]).to(dtype).view(*ids.shape, self.in_features)


class Int4Linear(Linear):
    """The int4 format: q uint8[N, ceil(K / 2)], scale and zero bfloat16[N, ceil(K / group_size)]."""

    q: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, q: Tensor, scale: Tensor, zero: Tensor, group_size: int, in_features: int) -> None:
        super().__init__(q.shape[0], in_features)
        self.group_size = group_size
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._dequantized(slice(None)).to(x.dtype))

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self._dequantized(ids.reshape(-1)).to(dtype).view(*ids.shape, self.in_features)

    def _dequantized(self, rows: slice | Tensor) -> Tensor:
        return dequantize_int4(self.q[rows], self.scale[rows], self.zero[rows], self.group_size, self.in_features)
