"""A layer's feed-forward part on one rank: one gated network, or several that a router chooses among.

Shapes: N tokens of the step, M model width, F this rank's feed-forward columns, E experts, n tokens of one expert.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.manifest import Architecture
from common.manifest import Experts as ExpertShape
from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition


class FeedForward(nn.Module):
    """A gated network (Shazeer 2020): SwiGLU, or GeGLU with the tanh approximation."""

    def __init__(self, arch: Architecture, part: Partition) -> None:
        super().__init__()
        self.gate_up = place(2 * part.feed_forward.size, arch.hidden_size)
        self.down = place(arch.hidden_size, part.feed_forward.size)
        is_silu = arch.variations is None or arch.variations.activation == "silu"
        self._activation: Callable[[Tensor], Tensor] = F.silu if is_silu else _gelu_tanh

    def forward(self, x_NM: Tensor) -> Tensor:
        """Return this rank's part of the feed-forward output, [N, M]."""
        gate_NF, up_NF = self.gate_up(x_NM).chunk(2, dim=-1)
        part_NM: Tensor = self.down(self._activation(gate_NF) * up_NF)
        return part_NM


class Experts(nn.Module):
    """A mixture of experts (Jiang et al. 2024). Every rank holds its columns of every expert.

    A step's tokens are grouped by expert: each expert that was chosen is read once, the others not at all.
    """

    def __init__(self, arch: Architecture, part: Partition, group: RankGroup, shape: ExpertShape) -> None:
        super().__init__()
        self.per_token, self.normalized, self.group = shape.per_token, shape.normalized, group
        self.router = place(shape.count, arch.hidden_size)
        self.experts = nn.ModuleList(FeedForward(arch, part) for _ in range(shape.count))

    def forward(self, x_NM: Tensor) -> Tensor:
        """Return this rank's part of the chosen experts' weighted outputs, [N, M]."""
        scores_NE = self._scores(x_NM)
        weights_Nk, chosen_Nk = torch.softmax(scores_NE, dim=-1).topk(self.per_token, dim=-1)
        if self.normalized:
            weights_Nk = weights_Nk / weights_Nk.sum(dim=-1, keepdim=True)
        part_NM = torch.zeros_like(x_NM)
        for expert in torch.unique(chosen_Nk).tolist():
            tokens_n, places_n = torch.where(chosen_Nk == expert)
            weighted_nM = self.experts[expert](x_NM[tokens_n]) * weights_Nk[tokens_n, places_n, None]
            part_NM.index_add_(0, tokens_n, weighted_nM.to(x_NM.dtype))
        return part_NM

    def _scores(self, x_NM: Tensor) -> Tensor:
        """Return rank 0's router scores, float32[N, E]: a tie that ranks broke differently would mix up experts."""
        if self.group.rank == 0:
            scores_NE: Tensor = self.router(x_NM).float()
        else:
            scores_NE = x_NM.new_zeros(len(x_NM), self.router.out_features, dtype=torch.float32)
        return self.group.all_reduce(scores_NE)


def place(out_features: int, in_features: int) -> Linear:
    """Return where the loader puts a matrix of this shape, in whichever form it is stored."""
    return FloatLinear(torch.empty(out_features, in_features))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
