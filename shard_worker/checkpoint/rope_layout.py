"""Which rows of a head rotate together? Ours lie half a head apart; in Meta's layout they lie side by side."""

from collections.abc import Iterator

import torch

from shard_worker.checkpoint.source import row_blocks


def half_split(x_RK: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return query or key rows of whole heads in half-split order, from Meta's order: (0, 1), (2, 3), ... rotate.

    The inverse of what Hugging Face's and gpt-fast's converters call permute.
    """
    pairs = x_RK.reshape(-1, head_dim // 2, 2, x_RK.shape[-1])
    return pairs.transpose(1, 2).reshape(x_RK.shape)


def head_blocks(rows: int, row_elements: int, head_dim: int) -> Iterator[slice]:
    """Yield slices as `row_blocks` does, but of whole heads; `rows` must be whole heads too."""
    for heads in row_blocks(rows // head_dim, head_dim * row_elements):
        yield slice(heads.start * head_dim, heads.stop * head_dim)
