"""What the decode step asks of its kernels. Each call has shapes that do not depend on values, so it can be recorded.

Shapes: N tokens, M inputs, O outputs, H query heads, K KV heads, D head size. Hidden states are float32.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from shard_worker.gpu.matrices import Matrix
from shard_worker.model.llama import Norm


@dataclass(frozen=True)
class StaticStep:
    """A step's inputs in memory that stays where it is. A padding token has position and slot -1."""

    ids_N: Tensor
    positions_N: Tensor
    slots_N: Tensor
    table_starts_N: Tensor
    block_tables: Tensor


class Operations(Protocol):
    """The kernels of one model on one device."""

    def linear(
        self, x_NM: Tensor, matrix: Matrix, norm: Norm | None = None, residual_NO: Tensor | None = None
    ) -> Tensor:
        """Return float32[N, O]: norm(x) wᵀ + residual; x is float32, or what `attend` and `gated` return."""
        ...

    def gated(self, x_NM: Tensor, gate_up: Matrix, norm: Norm) -> Tensor:
        """Return silu(g) * u, [N, O / 2], where g and u are the halves of norm(x) wᵀ."""
        ...

    def rotate_and_store(self, qkv_NO: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        """Return the rotated queries [N, H, D]; write the rotated keys and the values to the cache layer."""
        ...

    def attend(self, q_NHD: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        """Return the attention output of every token up to its own position, [N, H * D]; 0 for padding."""
        ...
