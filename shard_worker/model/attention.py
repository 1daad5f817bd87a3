"""Paged attention over a step's ragged rows: a plain reference path and a fast one.

Shapes: N tokens of the step, B rows of one bucket, n tokens a row, L context positions, H query heads, K KV heads,
G = H / K queries per KV head, D head size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from shard_worker.model.kv_cache import KVCache


@dataclass(frozen=True)
class RowBucket:
    """Rows of equal length n, computed as one batch. Shorter contexts are padded with slot 0 and masked out."""

    tokens_Bn: Tensor  # index of each token in the step
    slots_BL: Tensor  # KV slots of the context
    mask_BnL: Tensor  # 0 where a token may look, -inf elsewhere; the model's type


@dataclass(frozen=True)
class HeadMap:
    """Which KV head each local query head reads; `queries_per_kv` is G where the heads divide evenly in order."""

    kv_of_query_H: Tensor
    queries_per_kv: int | None


AttentionPath = Callable[[Tensor, KVCache, int, list[RowBucket], HeadMap], Tensor]


def fast_attention(q_NHD: Tensor, cache: KVCache, layer: int, buckets: list[RowBucket], heads: HeadMap) -> Tensor:
    """Return softmax(q k / sqrt(D)) v for every token, [N, H, D], with PyTorch's fused kernel, a bucket at a time.

    The queries of one KV head are folded into the query length, so keys and values are never copied per query head.
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
        mask = bucket.mask_BnL.unsqueeze(1).expand(B, group, n, L).reshape(B, 1, group * n, L)
        o_BKnD = F.scaled_dot_product_attention(q_BKnD, k_BKLD, v_BKLD, attn_mask=mask)
        o_BnHD = o_BKnD.view(B, K, group, n, D).permute(0, 3, 1, 2, 4).reshape(B, n, K * group, D)
        out_NHD[bucket.tokens_Bn] = o_BnHD
    return out_NHD


def reference_attention(q_NHD: Tensor, cache: KVCache, layer: int, buckets: list[RowBucket], heads: HeadMap) -> Tensor:
    """Return the same as `fast_attention`, written as the formula, float32 throughout."""
    out_NHD = torch.empty_like(q_NHD)
    for bucket in buckets:
        k_BKLD, v_BKLD = cache.read(layer, bucket.slots_BL)
        k_BHLD = k_BKLD[:, heads.kv_of_query_H].float()
        v_BHLD = v_BKLD[:, heads.kv_of_query_H].float()
        q_BnHD = q_NHD[bucket.tokens_Bn].float()
        scores_BHnL = torch.einsum("bnhd,bhld->bhnl", q_BnHD, k_BHLD) / math.sqrt(q_NHD.shape[-1])
        weights_BHnL = torch.softmax(scores_BHnL + bucket.mask_BnL.float().unsqueeze(1), dim=-1)
        o_BnHD = torch.einsum("bhnl,bhld->bnhd", weights_BHnL, v_BHLD)
        out_NHD[bucket.tokens_Bn] = o_BnHD.to(q_NHD.dtype)
    return out_NHD


ATTENTION_PATHS: dict[str, AttentionPath] = {"fast": fast_attention, "reference": reference_attention}
