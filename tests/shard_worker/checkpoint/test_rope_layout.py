"""Rotating pairs that lie side by side is the same as rotating halves, once the rows are moved."""

import torch

from shard_worker.checkpoint import source
from shard_worker.checkpoint.rope_layout import half_split, head_blocks


def test_scores_are_those_of_metas_rotation() -> None:
    generator = torch.Generator().manual_seed(3)
    heads, head_dim, width, positions = 3, 8, 12, 5
    x_NW = torch.randn(positions, width, generator=generator)
    q_RW, k_RW = (torch.randn(heads * head_dim, width, generator=generator) for _ in range(2))
    angles_NH = torch.outer(torch.arange(positions), 10_000.0 ** -(torch.arange(0, head_dim, 2) / head_dim))

    def metas(w_RW: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex((x_NW @ w_RW.T).reshape(positions, heads, head_dim // 2, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones(()), angles_NH)[:, None]).flatten(2)

    def ours(w_RW: torch.Tensor) -> torch.Tensor:
        one, other = (x_NW @ half_split(w_RW, head_dim).T).reshape(positions, heads, head_dim).chunk(2, dim=-1)
        cos, sin = angles_NH.cos()[:, None], angles_NH.sin()[:, None]
        return torch.cat([one * cos - other * sin, other * cos + one * sin], dim=-1)

    theirs_scores = torch.einsum("nhd,mhd->hnm", metas(q_RW), metas(k_RW))
    our_scores = torch.einsum("nhd,mhd->hnm", ours(q_RW), ours(k_RW))
    torch.testing.assert_close(our_scores, theirs_scores)


def test_blocks_are_whole_heads() -> None:
    blocks = list(head_blocks(rows=1 << 16, row_elements=1 << 12, head_dim=128))
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    assert (blocks[0].start, blocks[-1].stop) == (0, 1 << 16)
    assert all((block.stop - block.start) % 128 == 0 for block in blocks)
    assert all((block.stop - block.start) << 12 <= source.BLOCK_ELEMENTS for block in blocks)
