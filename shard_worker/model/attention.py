"""Paged attention over a step's ragged rows: a plain reference path and a fast one.

Shapes: N tokens of the step, B rows of one bucket, n tokens a row, L context positions, H query heads, K KV heads,
G = H / K queries per KV head, D head size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from shard_worker.model.kv_cache import KVCache


@dataclass(frozen=True)
class RowBucket:
    """Rows of equal length n, computed as one batch. Shorter contexts are padded with slot 0 and masked out."""

    tokens_Bn: Tensor  # index of each token in the step
    slots_BL: Tensor  # KV slots of the context
    positions_Bn: Tensor
    mask_BnL: Tensor  # 0 where a token may look, -inf elsewhere; the model's type
    windowed: Mapping[int, Tensor] = field(default_factory=dict)  # by window: the mask of layers that have it

    def mask(self, window: int | None) -> Tensor:
        """Return the mask of a layer with this window."""
        return self.mask_BnL if window is None else self.windowed[window]


@dataclass(frozen=True)
class HeadMap:
    """Which KV head each local query head reads; `queries_per_kv` is G where the heads divide evenly in order."""

    kv_of_query_H: Tensor
    queries_per_kv: int | None


@dataclass(frozen=True)
class Scoring:
    """How a layer scores keys: `scale` is 1 / sqrt(D) where it is None; see `common.manifest.Variations`."""

    scale: float | None = None
    soft_cap: float | None = None
    window: int | None = None
    slopes_H: Tensor | None = None  # of linear biases, float32


PLAIN = Scoring()


class AttentionPath(Protocol):
    """What computes attention; the functions below say what."""

    def __call__(
        self,
        q_NHD: Tensor,
        cache: KVCache,
        layer: int,
        buckets: list[RowBucket],
        heads: HeadMap,
        scoring: Scoring = PLAIN,
    ) -> Tensor:
        """Return softmax(scale q k) v for every token, [N, H, D]."""
        ...


def fast_attention(
    q_NHD: Tensor, cache: KVCache, layer: int, buckets: list[RowBucket], heads: HeadMap, scoring: Scoring = PLAIN
) -> Tensor:
    """Return softmax(scale q k) v for every token, [N, H, D], with PyTorch's fused kernel, a bucket at a time.

    The queries of one KV head are folded into the query length, so keys and values are never copied per query head.
    Scores with a soft cap or linear biases, which the fused kernel does not know, are formed as a whole.
    """
    out_NHD = torch.empty_like(q_NHD)
    for bucket in buckets:
        k_BKLD, v_BKLD = cache.read(layer, bucket.slots_BL)
        group = heads.queries_per_kv
        if group is None:
            group = 1
            k_BKLD, v_BKLD = k_BKLD[:, heads.kv_of_query_H], v_BKLD[:, heads.kv_of_query_H]
        B, n = bucket.tokens_Bn.shape
        _, K, L, D = k_BKLD.shape
        q_BnKGD = q_NHD[bucket.tokens_Bn].view(B, n, K, group, D)
        q_BKnD = q_BnKGD.permute(0, 2, 3, 1, 4).reshape(B, K, group * n, D)
        mask = bucket.mask(scoring.window).unsqueeze(1).expand(B, group, n, L).reshape(B, 1, group * n, L)
        if scoring.soft_cap is None and scoring.slopes_H is None:
            o_BKnD = F.scaled_dot_product_attention(q_BKnD, k_BKLD, v_BKLD, attn_mask=mask, scale=scoring.scale)
        else:
            scores_BKnL = _scores(q_BKnD, k_BKLD, scoring) + mask
            if scoring.slopes_H is not None:
                scores_BKnL = scores_BKnL + _biases(bucket, L, scoring.slopes_H).view(B, K, group * n, L)
            o_BKnD = torch.softmax(scores_BKnL, dim=-1, dtype=torch.float32).to(q_BKnD.dtype) @ v_BKLD
        o_BnHD = o_BKnD.view(B, K, group, n, D).permute(0, 3, 1, 2, 4).reshape(B, n, K * group, D)
        out_NHD[bucket.tokens_Bn] = o_BnHD
    return out_NHD


def reference_attention(
    q_NHD: Tensor, cache: KVCache, layer: int, buckets: list[RowBucket], heads: HeadMap, scoring: Scoring = PLAIN
) -> Tensor:
    """Return the same as `fast_attention`, written as the formula, float32 throughout."""
    out_NHD = torch.empty_like(q_NHD)
    for bucket in buckets:
        k_BKLD, v_BKLD = cache.read(layer, bucket.slots_BL)
        k_BHLD = k_BKLD[:, heads.kv_of_query_H].float()
        v_BHLD = v_BKLD[:, heads.kv_of_query_H].float()
        q_BHnD = q_NHD[bucket.tokens_Bn].float().transpose(1, 2)
        mask = bucket.mask(scoring.window).float().unsqueeze(1)
        scores_BHnL = _scores(q_BHnD, k_BHLD, scoring) + mask
        if scoring.slopes_H is not None:
            scores_BHnL = scores_BHnL + _biases(bucket, k_BHLD.shape[2], scoring.slopes_H)
        weights_BHnL = torch.softmax(scores_BHnL, dim=-1)
        o_BnHD = torch.einsum("bhnl,bhld->bnhd", weights_BHnL, v_BHLD)
        out_NHD[bucket.tokens_Bn] = o_BnHD.to(q_NHD.dtype)
    return out_NHD


def _scores(q: Tensor, k: Tensor, scoring: Scoring) -> Tensor:
    """Return the scores of queries [..., n, D] and keys [..., L, D] before the mask, [..., n, L]."""
    scores = q @ k.transpose(-1, -2) * (scoring.scale or 1 / math.sqrt(q.shape[-1]))
    return scores if scoring.soft_cap is None else scoring.soft_cap * torch.tanh(scores / scoring.soft_cap)


def _biases(bucket: RowBucket, context: int, slopes_H: Tensor) -> Tensor:
    """Return what linear biases add to the scores, float32[B, H, n, L]: the farther a key, the less."""
    places_L = torch.arange(context, device=slopes_H.device)
    distances_BnL = bucket.positions_Bn[:, :, None] - places_L
    return -slopes_H[:, None, None] * distances_BnL[:, None]


def alibi_slopes(heads: int) -> list[float]:
    """Return the slope of each of a model's query heads (Press et al. 2022).

    2**(-8/n), 2**(-16/n), ... for a power of two n; for other numbers the slopes of the next lower one, and then every
    second of the next higher one.
    """
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes if heads == power else slopes + alibi_slopes(2 * power)[::2][: heads - power]


ATTENTION_PATHS: dict[str, AttentionPath] = {"fast": fast_attention, "reference": reference_attention}
