"""The Llama-family decoder (Touvron et al. 2023) with all its variations, one rank's part of it.

What a model computes otherwise than Llama is in `common.manifest.Variations`; where it is None, nothing.

Shapes: N tokens of the step, M model width, H query heads, K KV heads, D head size, V vocabulary
rows; H, K and V count this rank's part only. The group adds the parts up; with one rank it does nothing.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.manifest import Architecture, Variations
from shard_worker.model.attention import PLAIN, AttentionPath, HeadMap, RowBucket, Scoring, alibi_slopes
from shard_worker.model.feed_forward import Experts, FeedForward, place
from shard_worker.model.head_screen import HeadScreen
from shard_worker.model.kv_cache import KVCache
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
    """Root mean square norm, or one that subtracts the mean first; float32 inside."""

    def __init__(self, width: int, eps: float, centered: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=torch.float32))
        self.eps, self._norm = eps, F.layer_norm if centered else F.rms_norm

    def forward(self, x_NM: Tensor) -> Tensor:
        """Return the normed rows in x's type."""
        return self._norm(x_NM.float(), (x_NM.shape[-1],), self.weight, eps=self.eps).to(x_NM.dtype)


class Attention(nn.Module):
    """Grouped-query attention through the paged cache."""

    def __init__(self, arch: Architecture, part: Partition, path: AttentionPath, heads: HeadMap, index: int) -> None:
        super().__init__()
        v = arch.variations
        self.queries, self.kv, self.head_dim = part.query_heads.size, part.kv_heads.size, arch.head_dim
        self.path, self.heads = path, heads
        self.scoring = PLAIN if v is None else _scoring(v, arch.query_heads, part, heads.kv_of_query_H.device, index)
        self.qkv = place((self.queries + 2 * self.kv) * arch.head_dim, arch.hidden_size)
        self.qkv_bias = nn.Parameter(torch.empty(self.qkv.out_features)) if v is not None and v.qkv_bias else None
        self.qkv_clip = None if v is None else v.qkv_clip
        self.query_norm, self.key_norm = (
            Norm(arch.head_dim, arch.norm_eps) if v is not None and v.qk_norm else None for _ in range(2)
        )
        self.output = place(arch.hidden_size, self.queries * arch.head_dim)

    def forward(
        self, x_NM: Tensor, step: StepInputs, rope: tuple[Tensor, Tensor], cache: KVCache, layer: int
    ) -> Tensor:
        """Return this rank's part of the attention output, [N, M]; writes the step's keys and values."""
        qkv = self.qkv(x_NM) if self.qkv_bias is None else self.qkv(x_NM) + self.qkv_bias
        if self.qkv_clip is not None:
            qkv = qkv.clamp(-self.qkv_clip, self.qkv_clip)
        qkv_NHD = qkv.view(x_NM.shape[0], -1, self.head_dim)
        qk_NHD = rotate(self._normed(qkv_NHD[:, : self.queries + self.kv]), *rope)
        v_NKD = qkv_NHD[:, self.queries + self.kv :]
        cache.write(layer, step.slots_N, torch.cat((qk_NHD[:, self.queries :], v_NKD), dim=1))
        out_NHD = self.path(qk_NHD[:, : self.queries], cache, layer, step.buckets, self.heads, self.scoring)
        part_NM: Tensor = self.output(out_NHD.reshape(x_NM.shape[0], -1))
        return part_NM

    def _normed(self, qk_NHD: Tensor) -> Tensor:
        """Return queries and keys, each head normed by itself (Henry et al. 2020) where the model does that."""
        if self.query_norm is None or self.key_norm is None:
            return qk_NHD
        return torch.cat((self.query_norm(qk_NHD[:, : self.queries]), self.key_norm(qk_NHD[:, self.queries :])), dim=1)


class Layer(nn.Module):
    """One decoder layer. The output norms are the identity in models that have none."""

    def __init__(
        self, arch: Architecture, part: Partition, path: AttentionPath, heads: HeadMap, group: RankGroup, index: int
    ) -> None:
        super().__init__()
        v = arch.variations
        self.rotates_locally = v is not None and v.local_rope is not None and v.windows[index] is not None
        self.attention_norm = _norm(arch)
        self.attention = Attention(arch, part, path, heads, index)
        self.attention_output_norm = _output_norm(arch)
        self.feed_forward_norm = _norm(arch)
        experts = None if v is None else v.experts
        self.feed_forward = FeedForward(arch, part) if experts is None else Experts(arch, part, group, experts)
        self.feed_forward_output_norm = _output_norm(arch)

    @property
    def dense(self) -> FeedForward:
        """The feed-forward part of a layer that has no experts."""
        assert isinstance(self.feed_forward, FeedForward)
        return self.feed_forward


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
        local_rope: RopeTable | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary, self.group, self.dtype = part.vocabulary, group, dtype
        self.vocabulary_size = arch.vocabulary_size
        heads = HeadMap(torch.tensor(part.kv_of_query, device=rope.cos.device), part.queries_per_kv)
        self.embedding = place(part.vocabulary.size, arch.hidden_size)
        self.layers = nn.ModuleList(Layer(arch, part, path, heads, group, index) for index in range(arch.layers))
        self.norm = _norm(arch)
        self.head = place(part.vocabulary.size, arch.hidden_size)
        self.screen: HeadScreen | None = None
        self.rope, self.local_rope = rope, local_rope
        self.departures = arch.departures
        v = arch.variations
        self.windows = frozenset(window for window in (() if v is None else v.windows) if window is not None)
        self._embedding_scale = 1.0 if v is None else v.embedding_scale
        self._logit_scale = 1.0 if v is None else v.logit_scale
        self._logit_soft_cap = None if v is None else v.logit_soft_cap

    def forward(self, step: StepInputs, cache: KVCache) -> Tensor:
        """Run a step and return the final hidden state of its reported tokens, float32[P, M]."""
        rope = self.rope(step.positions_N)
        local_rope = rope if self.local_rope is None else self.local_rope(step.positions_N)
        x_NM = self.embed(step.ids_N)
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            angles = local_rope if layer.rotates_locally else rope
            attended = layer.attention(layer.attention_norm(x_NM), step, angles, cache, index)
            x_NM = x_NM + layer.attention_output_norm(self.group.all_reduce(attended))
            fed_forward = layer.feed_forward(layer.feed_forward_norm(x_NM))
            x_NM = x_NM + layer.feed_forward_output_norm(self.group.all_reduce(fed_forward))
        hidden_PM: Tensor = self.norm(x_NM[step.reported_P].float())
        return hidden_PM

    def embed(self, ids_N: Tensor) -> Tensor:
        """Return the tokens' embeddings, [N, M], in a tensor of their own."""
        x_NM = self.group.all_reduce(self._embed(ids_N))
        # The scale is rounded to x's type, as the models that have one were trained.
        return x_NM if self._embedding_scale == 1 else x_NM * torch.tensor(self._embedding_scale, dtype=x_NM.dtype)

    def logits(self, hidden_PM: Tensor) -> Tensor:
        """Return float32[P, V]: the logits over this rank's slice of the vocabulary."""
        logits_PV: Tensor = self.head(hidden_PM)
        if self._logit_scale != 1:
            logits_PV = logits_PV * self._logit_scale
        cap = self._logit_soft_cap
        return logits_PV if cap is None else cap * torch.tanh(logits_PV / cap)

    def _embed(self, ids_N: Tensor) -> Tensor:
        """Return embeddings of the ids in this rank's slice and zeros for the others."""
        if self.group.world_size == 1:
            return self.embedding.rows(ids_N, self.dtype)
        local_N = ids_N - self.vocabulary.start
        mine_N = (local_N >= 0) & (local_N < self.vocabulary.size)
        return self.embedding.rows(local_N.where(mine_N, 0), self.dtype) * mine_N.unsqueeze(-1)


def _scoring(v: Variations, heads: int, part: Partition, device: torch.device, index: int) -> Scoring:
    own = slice(part.query_heads.start, part.query_heads.stop)
    slopes_H = torch.tensor(alibi_slopes(heads)[own], device=device) if v.alibi else None
    return Scoring(v.attention_scale, v.attention_soft_cap, v.windows[index], slopes_H)


def _output_norm(arch: Architecture) -> nn.Module:
    has_one = arch.variations is not None and arch.variations.output_norms
    return _norm(arch) if has_one else nn.Identity()


def _norm(arch: Architecture) -> Norm:
    return Norm(arch.hidden_size, arch.norm_eps, arch.variations is not None and arch.variations.layer_norms)
