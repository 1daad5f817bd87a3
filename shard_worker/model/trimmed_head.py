"""A draft's head that knows the frequent tokens alone (FR-Spec, Zhao et al. 2025, arXiv 2502.14856).

Shapes: V tokens of the vocabulary, N of them that have a row, K input features.
"""

import torch
from torch import Tensor

from shard_worker.model.linear import Linear


class TrimmedHead(Linear):
    """Logits of the tokens ids_N, rising int64[N], by the rows of `kept`; minus infinity for all others."""

    ids_N: Tensor

    def __init__(self, kept: Linear, ids_N: Tensor, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, kept.in_features)
        self.kept = kept
        self.register_buffer("ids_N", ids_N)

    def forward(self, x: Tensor) -> Tensor:
        kept: Tensor = self.kept(x)
        return self.widened(kept)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of tokens that have one."""
        return self.kept.rows(torch.searchsorted(self.ids_N, ids), dtype)

    def widened(self, kept_PN: Tensor) -> Tensor:
        """Return the logits of all tokens, [..., V], from those of the kept ones, [..., N]."""
        wide_PV = kept_PN.new_full((*kept_PN.shape[:-1], self.out_features), -torch.inf)
        wide_PV[..., self.ids_N] = kept_PN
        return wide_PV
