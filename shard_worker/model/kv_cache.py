"""The paged KV cache of one rank: one flat tensor of slots per layer; the gateway says which blocks are whose."""

import torch
from torch import Tensor


class KVCache:
    """Keys and values of all sequences.

    Position p of a sequence lies in slot `block_table[p // block_size] * block_size + p % block_size`. A layer is one
    tensor [slots, 2 * kv_heads, head_dim], keys before values, so that a step writes both with one copy.
    """

    def __init__(
        self,
        layers: int,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.kv_heads = kv_heads
        shape = (num_blocks * block_size, 2 * kv_heads, head_dim)
        self._layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]

    def layer(self, index: int) -> Tensor:
        """Return a layer's slots, [slots, 2 * kv_heads, head_dim]."""
        return self._layers[index]

    def write(self, layer: int, slots_N: Tensor, kv_NHD: Tensor) -> None:
        """Store keys and values [N, 2 * kv_heads, head_dim] in these slots."""
        self._layers[layer].index_copy_(0, slots_N, kv_NHD)

    def read(self, layer: int, slots_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values at these slots, each [B, kv_heads, L, head_dim]."""
        gathered = self._layers[layer].index_select(0, slots_BL.reshape(-1))
        gathered_BLHD = gathered.view(*slots_BL.shape, 2 * self.kv_heads, -1).transpose(1, 2)
        return gathered_BLHD[:, : self.kv_heads], gathered_BLHD[:, self.kv_heads :]


def bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Return how many bytes one position of one sequence takes on a rank."""
    return layers * 2 * kv_heads * head_dim * dtype.itemsize
