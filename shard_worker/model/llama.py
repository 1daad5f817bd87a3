"""The Llama-family decoder (Touvron et al. 2023), one rank's part of it.

Shapes: N tokens of the step, M model width, H query heads, K KV heads, D head size, F feed-forward columns, V
vocabulary rows; H, K, F and V count this rank's part only. The group adds the parts up; with one rank it does nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.manifest import Architecture
from shard_worker.model.attention import AttentionPath, HeadMap, RowBucket
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.model.rope import RopeTable, rotate
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition


@dataclass(frozen=True)
class StepInputs:
    """A step as the model sees it: N tokens of many rows, flattened."""

    ids_N: Tensor
    positions_N: Tensor
    slots_N: Tensor
    block_tables: Tensor  # int32: the rows' block tables, one after the other
    table_starts_N: Tensor  # where each token's row's block table begins
    buckets: list[RowBucket]  # empty where the step runs in native code
    reported_P: Tensor  # tokens whose logits are wanted


class Norm(nn.Module):
    """Root mean square norm, float32 inside."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32))
        self.eps = eps

    def forward(self, x_NM: Tensor) -> Tensor:
        """Return the normed rows in x's type."""
        return F.rms_norm(x_NM.float(), (x_NM.shape[-1],), self.weight, self.eps).to(x_NM.dtype)


class Attention(nn.Module):
    """Grouped-query attention through the paged cache."""

    def __init__(self, arch: Architecture, part: Partition, path: AttentionPath, heads: HeadMap) -> None:
        super().__init__()
        self.queries, self.kv, self.head_dim = part.query_heads.size, part.kv_heads.size, arch.head_dim
        self.path, self.heads = path, heads
        self.qkv = _place((self.queries + 2 * self.kv) * arch.head_dim, arch.hidden_size)
        self.output = _place(arch.hidden_size, self.queries * arch.head_dim)

    def forward(
        self, x_NM: Tensor, step: StepInputs, rope: tuple[Tensor, Tensor], cache: KVCache, layer: int
    ) -> Tensor:
        """Return this rank's part of the attention output, [N, M]; writes the step's keys and values."""
        qkv_NHD = self.qkv(x_NM).view(x_NM.shape[0], -1, self.head_dim)
        qk_NHD = rotate(qkv_NHD[:, : self.queries + self.kv], *rope)
        v_NKD = qkv_NHD[:, self.queries + self.kv :]
        cache.write(layer, step.slots_N, torch.cat((qk_NHD[:, self.queries :], v_NKD), dim=1))
        out_NHD = self.path(qk_NHD[:, : self.queries], cache, layer, step.buckets, self.heads)
        part_NM: Tensor = self.output(out_NHD.reshape(x_NM.shape[0], -1))
        return part_NM


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, arch: Architecture, part: Partition) -> None:
        super().__init__()
        self.gate_up = _place(2 * part.feed_forward.size, arch.hidden_size)
        self.down = _place(arch.hidden_size, part.feed_forward.size)

    def forward(self, x_NM: Tensor) -> Tensor:
        """Return this rank's part of the feed-forward output, [N, M]."""
        gate_NF, up_NF = self.gate_up(x_NM).chunk(2, dim=-1)
        part_NM: Tensor = self.down(F.silu(gate_NF) * up_NF)
        return part_NM


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, arch: Architecture, part: Partition, path: AttentionPath, heads: HeadMap) -> None:
        super().__init__()
        self.attention_norm = Norm(arch.hidden_size, arch.norm_eps)
        self.attention = Attention(arch, part, path, heads)
        self.feed_forward_norm = Norm(arch.hidden_size, arch.norm_eps)
        self.feed_forward = FeedForward(arch, part)


class Llama(nn.Module):
    """A rank's part of the decoder. The head is apart, so that many logits need not exist at once."""

    def __init__(
        self,
        arch: Architecture,
        part: Partition,
        group: RankGroup,
        path: AttentionPath,
        rope: RopeTable,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.vocabulary, self.group, self.dtype = part.vocabulary, group, dtype
        self.vocabulary_size = arch.vocabulary_size
        heads = HeadMap(torch.tensor(part.kv_of_query, device=rope.cos.device), part.queries_per_kv)
        self.embedding = _place(part.vocabulary.size, arch.hidden_size)
        self.layers = nn.ModuleList(Layer(arch, part, path, heads) for _ in range(arch.layers))
        self.norm = Norm(arch.hidden_size, arch.norm_eps)
        self.head = _place(part.vocabulary.size, arch.hidden_size)
        self.rope = rope

    def forward(self, step: StepInputs, cache: KVCache) -> Tensor:
        """Run a step and return the final hidden state of its reported tokens, float32[P, M]."""
        rope = self.rope(step.positions_N)
        x_NM = self.embed(step.ids_N)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            attended = layer.attention(layer.attention_norm(x_NM), step, rope, cache, index)
            x_NM = x_NM + self.group.all_reduce(attended)
            fed_forward = layer.feed_forward(layer.feed_forward_norm(x_NM))
            x_NM = x_NM + self.group.all_reduce(fed_forward)
        hidden_PM: Tensor = self.norm(x_NM[step.reported_P].float())
        return hidden_PM

    def embed(self, ids_N: Tensor) -> Tensor:
        """Return the tokens' embeddings, [N, M], in a tensor of their own."""
        return self.group.all_reduce(self._embed(ids_N))

    def logits(self, hidden_PM: Tensor) -> Tensor:
        """Return float32[P, V]: the logits over this rank's slice of the vocabulary."""
        logits_PV: Tensor = self.head(hidden_PM)
        return logits_PV

    def _embed(self, ids_N: Tensor) -> Tensor:
        """Return embeddings of the ids in this rank's slice and zeros for the others."""
        if self.group.world_size == 1:
            return self.embedding.rows(ids_N, self.dtype)
        local_N = ids_N - self.vocabulary.start
        mine_N = (local_N >= 0) & (local_N < self.vocabulary.size)
        return self.embedding.rows(local_N.where(mine_N, 0), self.dtype) * mine_N.unsqueeze(-1)


def _place(out_features: int, in_features: int) -> Linear:
    """Return where the loader puts a matrix of this shape, in whichever form it is stored."""
    return FloatLinear(torch.empty(out_features, in_features))
