"""Attention of single tokens through the block tables, the context split among programs (flash-decoding, Dao 2023).

Shapes: N tokens, H query heads, G queries of one KV head, D head size, L positions of one tile, S splits. Each token
goes by its own position and table, so that decode rows, verified drafts and short prefill chunks are one case.
"""

import triton
import triton.language as tl


@triton.jit
def attend_split(
    q,
    cache,
    positions,
    table_starts,
    tables,
    first_query,
    out,
    sums,
    log2_scale,
    H: tl.constexpr,
    KV: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    X_TYPE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Attend for token program_id(0) with the queries of KV head program_id(1) to split program_id(2) of its context.

    q: [N, H, D]; cache: [slots, 2 KV, D]; KV head k serves queries first_query[k] to first_query[k + 1].
    With one split out is [N, H, D], finished; else float32[N, SPLITS, H, D], to be divided, and sums is
    float32[2, N, SPLITS, H]: each part's largest score, base 2, and its sum of weights. A token at position -1 gets 0.
    """
    token, kv, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = (tl.load(positions + token) + 1).to(tl.int32)
    size = ((length + SPLITS - 1) // SPLITS + BLOCK_L - 1) // BLOCK_L * BLOCK_L
    start = split * size
    stop = tl.minimum(start + size, length)
    first = tl.load(first_query + kv)
    h_G = first + tl.arange(0, BLOCK_G)
    inside_G = h_G < tl.load(first_query + kv + 1)
    d_D = tl.arange(0, BLOCK_D)
    inside_D = d_D < D
    inside_GD = inside_G[:, None] & inside_D[None, :]
    q_GD = tl.load(q + (token * H + h_G)[:, None] * D + d_D[None, :], mask=inside_GD, other=0.0).to(X_TYPE)
    table = tables + tl.load(table_starts + token)
    most_G = tl.full([BLOCK_G], float("-inf"), tl.float32)
    sum_G = tl.zeros([BLOCK_G], tl.float32)
    total_GD = tl.zeros([BLOCK_G, BLOCK_D], tl.float32)
    for at in range(start, stop, BLOCK_L):
        p_L = at + tl.arange(0, BLOCK_L)
        inside_L = p_L < stop
        block_L = tl.load(table + p_L // BLOCK_SIZE, mask=inside_L, other=0).to(tl.int64)
        from_L = ((block_L * BLOCK_SIZE + p_L % BLOCK_SIZE) * (2 * KV) + kv) * D
        inside_LD = inside_L[:, None] & inside_D[None, :]
        k_LD = tl.load(cache + from_L[:, None] + d_D[None, :], mask=inside_LD, other=0.0).to(X_TYPE)
        v_LD = tl.load(cache + from_L[:, None] + KV * D + d_D[None, :], mask=inside_LD, other=0.0).to(X_TYPE)
        scores_GL = tl.dot(q_GD, tl.trans(k_LD), input_precision="ieee") * log2_scale
        scores_GL = tl.where(inside_L[None, :], scores_GL, float("-inf"))
        higher_G = tl.maximum(most_G, tl.max(scores_GL, axis=1))
        kept_G = tl.exp2(most_G - higher_G)
        weights_GL = tl.exp2(scores_GL - higher_G[:, None])
        sum_G = sum_G * kept_G + tl.sum(weights_GL, axis=1)
        total_GD = tl.dot(weights_GL.to(X_TYPE), v_LD, total_GD * kept_G[:, None], input_precision="ieee")
        most_G = higher_G
    if SPLITS == 1:
        total_GD /= tl.where(sum_G == 0.0, 1.0, sum_G)[:, None]
        to_GD = (token * H + h_G)[:, None] * D + d_D[None, :]
        tl.store(out + to_GD, total_GD.to(out.dtype.element_ty), mask=inside_GD)
    else:
        to_G = (token * SPLITS + split) * H + h_G
        tl.store(out + to_G[:, None] * D + d_D[None, :], total_GD, mask=inside_GD)
        tl.store(sums + to_G, most_G, mask=inside_G)
        tl.store(sums + tl.num_programs(0) * SPLITS * H + to_G, sum_G, mask=inside_G)


@triton.jit
def join_splits(
    parts,
    sums,
    out,
    H: tl.constexpr,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out[n, h] from the splits of `attend_split`, for token program_id(0) and query head program_id(1)."""
    token, head = tl.program_id(0), tl.program_id(1)
    s_S, d_D = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    inside_S, inside_D = s_S < SPLITS, d_D < D
    from_S = (token * SPLITS + s_S) * H + head
    most_S = tl.load(sums + from_S, mask=inside_S, other=float("-inf"))
    sum_S = tl.load(sums + tl.num_programs(0) * SPLITS * H + from_S, mask=inside_S, other=0.0)
    most = tl.max(most_S, axis=0)
    most = tl.where(most == float("-inf"), 0.0, most)  # of a padding token there is nothing
    weight_S = tl.exp2(most_S - most)
    inside_SD = inside_S[:, None] & inside_D[None, :]
    part_SD = tl.load(parts + from_S[:, None] * D + d_D[None, :], mask=inside_SD, other=0.0)
    total = tl.sum(sum_S * weight_S, axis=0)
    out_D = tl.sum(part_SD * weight_S[:, None], axis=0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + (token * H + head) * D + d_D, out_D.to(out.dtype.element_ty), mask=inside_D)
