"""A few tokens' rows times a matrix, on the matrix units: each weight is read once a BLOCK_M rows, widened on the way.

Shapes: N outputs, K inputs, M tokens, G groups of an int4 row. The tile is weights times inputs transposed, since
hardware wants 16 of the first, and N has them.
"""

import triton
import triton.language as tl

from shard_worker.gpu.kernels.epilogue import store_tile


@triton.jit
def skinny_wide(
    x,
    residual,
    weight,
    scale,
    out,
    N,
    M,
    K,
    HAS_RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    X_TYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """x[M, K]; weight[N or 2 N, K] of float32, bfloat16 or int8; products of X_TYPE, sums of float32."""
    n_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_M = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows_N = tl.minimum(n_N, N - 1).to(tl.int64)
    total_NM = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up_NM = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for first in range(0, K, BLOCK_K):
        k_K = first + tl.arange(0, BLOCK_K)
        inside_K = k_K < K
        inside_KM = inside_K[:, None] & (m_M[None, :] < M)
        x_KM = tl.load(x + m_M[None, :] * K + k_K[:, None], mask=inside_KM, other=0.0).to(X_TYPE)
        at_NK = rows_N[:, None] * K + k_K[None, :]
        w_NK = tl.load(weight + at_NK, mask=inside_K[None, :], other=0.0, eviction_policy="evict_first")
        total_NM = tl.dot(w_NK.to(X_TYPE), x_KM, total_NM, input_precision="ieee")
        if GATED:
            at_NK += N.to(tl.int64) * K
            w_NK = tl.load(weight + at_NK, mask=inside_K[None, :], other=0.0, eviction_policy="evict_first")
            up_NM = tl.dot(w_NK.to(X_TYPE), x_KM, up_NM, input_precision="ieee")
    squares_M = tl.zeros([BLOCK_M], tl.float32)
    store_tile(
        out, residual, scale, total_NM, up_NM, squares_M, n_N, m_M, N, M, K, 0.0, False, HAS_RESIDUAL, GATED, SCALED
    )


@triton.jit
def add_int4(total_NM, weight, scale, zero, rows_N, group_G, even_BM, odd_BM, row_bytes, groups, GROUP: tl.constexpr):
    """Return total plus the products of these groups with x, given at even and odd columns, [G * GROUP / 2, M]."""
    HALF: tl.constexpr = GROUP // 2
    bytes_GB = group_G[:, None] * HALF + tl.arange(0, HALF)[None, :]
    at_NGB = rows_N[:, None, None] * row_bytes + bytes_GB[None, :, :]
    q_NGB = tl.load(weight + at_NGB, mask=(bytes_GB < row_bytes)[None, :, :], other=0, eviction_policy="evict_first")
    at_NG = rows_N[:, None] * groups + group_G[None, :]
    inside_1G = (group_G < groups)[None, :]
    scale_NG1 = tl.load(scale + at_NG, mask=inside_1G, other=0.0).to(tl.float32)[:, :, None]
    zero_NG1 = tl.load(zero + at_NG, mask=inside_1G, other=0.0).to(tl.float32)[:, :, None]
    base_NG1 = zero_NG1 - 8.0 * scale_NG1
    shape: tl.constexpr = (rows_N.shape[0], group_G.shape[0] * HALF)
    low_NB = tl.reshape((q_NGB & 15).to(tl.float32) * scale_NG1 + base_NG1, shape).to(even_BM.dtype)
    high_NB = tl.reshape((q_NGB >> 4).to(tl.float32) * scale_NG1 + base_NG1, shape).to(even_BM.dtype)
    total_NM = tl.dot(low_NB, even_BM, total_NM, input_precision="ieee")
    return tl.dot(high_NB, odd_BM, total_NM, input_precision="ieee")


@triton.jit
def skinny_int4(
    x,
    residual,
    weight,
    scale,
    zero,
    out,
    N,
    M,
    K,
    row_bytes,
    groups,
    HAS_RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    X_TYPE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """As `matvec_int4`, for x[M, K]; GROUP divides BLOCK_K."""
    GROUPS: tl.constexpr = BLOCK_K // GROUP
    n_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_M = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    rows_N = tl.minimum(n_N, N - 1).to(tl.int64)
    total_NM = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up_NM = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for first in range(0, groups, GROUPS):
        group_G = first + tl.arange(0, GROUPS)
        k_B = first * GROUP + 2 * tl.arange(0, BLOCK_K // 2)
        at_BM = m_M[None, :] * K + k_B[:, None]
        inside_1M = (m_M < M)[None, :]
        even_BM = tl.load(x + at_BM, mask=inside_1M & (k_B < K)[:, None], other=0.0).to(X_TYPE)
        odd_BM = tl.load(x + at_BM + 1, mask=inside_1M & (k_B + 1 < K)[:, None], other=0.0).to(X_TYPE)
        total_NM = add_int4(total_NM, weight, scale, zero, rows_N, group_G, even_BM, odd_BM, row_bytes, groups, GROUP)
        if GATED:
            up_NM = add_int4(up_NM, weight, scale, zero, rows_N + N, group_G, even_BM, odd_BM, row_bytes, groups, GROUP)
    squares_M = tl.zeros([BLOCK_M], tl.float32)
    store_tile(
        out, residual, scale, total_NM, up_NM, squares_M, n_N, m_M, N, M, K, 0.0, False, HAS_RESIDUAL, GATED, False
    )
