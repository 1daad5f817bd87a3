"""Long steps of a quantised model: its modules multiply by the kernels too, instead of forming whole matrices first."""

import torch
from torch import Tensor

from shard_worker.gpu.matrices import matrix_of
from shard_worker.gpu.operations import Operations
from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.model.llama import Layer, Llama


class KernelLinear(Linear):
    """A quantised layer whose products are a kernel's. A matrix is read and widened once for 64 rows."""

    def __init__(self, stored: Linear, operations: Operations) -> None:
        """Raises SettingsError for a form that no kernel knows."""
        super().__init__(stored.out_features, stored.in_features)
        self._stored, self._matrix, self._operations = stored, matrix_of(stored), operations

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).contiguous()
        return self._operations.linear(rows, self._matrix).to(x.dtype).view(*x.shape[:-1], self.out_features)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return self._stored.rows(ids, dtype)


def use_kernels(model: Llama, operations: Operations) -> None:
    """Let the model's own forward multiply its layers' quantised matrices by `operations`; float ones stay."""

    def fused(linear: Linear) -> Linear:
        return linear if isinstance(linear, FloatLinear) else KernelLinear(linear, operations)

    for layer in model.layers:
        assert isinstance(layer, Layer)
        attention, feed_forward = layer.attention, layer.dense
        attention.qkv, attention.output = fused(attention.qkv), fused(attention.output)
        feed_forward.gate_up, feed_forward.down = fused(feed_forward.gate_up), fused(feed_forward.down)
