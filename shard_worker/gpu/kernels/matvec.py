"""One token's row times a matrix: each weight is read once and widened in registers.

Shapes: N outputs, K inputs, G groups of an int4 row. No split over K: the order of sums depends on nothing but the
tile. The root mean square norm is fused: its weight scales the inputs, its factor the finished sums.
"""

import triton
import triton.language as tl

from shard_worker.gpu.kernels.epilogue import store_tile


@triton.jit
def matvec_wide(
    x,
    norm,
    residual,
    weight,
    scale,
    out,
    N,
    K,
    eps,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
    X_TYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """weight[N or 2 N, K] of float32, bfloat16 or int8; X_TYPE is what inputs are rounded to."""
    n_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows_N = tl.minimum(n_N, N - 1).to(tl.int64)
    total_NK = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up_NK = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares_K = tl.zeros([BLOCK_K], tl.float32)
    for first in range(0, K, BLOCK_K):
        k_K = first + tl.arange(0, BLOCK_K)
        inside_K = k_K < K
        x_K = tl.load(x + k_K, mask=inside_K, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares_K += x_K * x_K
            x_K *= tl.load(norm + k_K, mask=inside_K, other=0.0)
        x_K = x_K.to(X_TYPE).to(tl.float32)
        at_NK = rows_N[:, None] * K + k_K[None, :]
        w_NK = tl.load(weight + at_NK, mask=inside_K[None, :], other=0.0, eviction_policy="evict_first")
        total_NK += w_NK.to(tl.float32) * x_K[None, :]
        if GATED:
            at_NK += N.to(tl.int64) * K
            w_NK = tl.load(weight + at_NK, mask=inside_K[None, :], other=0.0, eviction_policy="evict_first")
            up_NK += w_NK.to(tl.float32) * x_K[None, :]
    squares_M = tl.sum(squares_K, axis=0) + tl.zeros([1], tl.float32)
    total_NM, up_NM = tl.sum(total_NK, axis=1)[:, None], tl.sum(up_NK, axis=1)[:, None]
    m_M = tl.arange(0, 1)
    store_tile(
        out, residual, scale, total_NM, up_NM, squares_M, n_N, m_M, N, 1, K, eps, HAS_NORM, HAS_RESIDUAL, GATED, SCALED
    )


@triton.jit
def group_products(weight, scale, zero, rows_N, group_G, bytes_GB, even_GB, odd_GB, row_bytes, groups):
    """Return float32[N, G]: each group's part of the rows' products with x, given at even and odd columns."""
    inside_1GB = (bytes_GB < row_bytes)[None, :, :]
    at_NGB = rows_N[:, None, None] * row_bytes + bytes_GB[None, :, :]
    q_NGB = tl.load(weight + at_NGB, mask=inside_1GB, other=0, eviction_policy="evict_first")
    products_NGB = (q_NGB & 15).to(tl.float32) * even_GB[None, :, :]
    products_NGB += (q_NGB >> 4).to(tl.float32) * odd_GB[None, :, :]
    at_NG = rows_N[:, None] * groups + group_G[None, :]
    inside_1G = (group_G < groups)[None, :]
    scale_NG = tl.load(scale + at_NG, mask=inside_1G, other=0.0).to(tl.float32)
    zero_NG = tl.load(zero + at_NG, mask=inside_1G, other=0.0).to(tl.float32)
    # (q - 8) * scale + zero, with what does not depend on q taken out of the sum.
    sums_G = tl.sum(even_GB + odd_GB, axis=1)
    return tl.sum(products_NGB, axis=2) * scale_NG + (zero_NG - 8.0 * scale_NG) * sums_G[None, :]


@triton.jit
def matvec_int4(
    x,
    norm,
    residual,
    weight,
    scale,
    zero,
    out,
    N,
    K,
    row_bytes,
    groups,
    eps,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    X_TYPE: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """weight: uint8[N or 2 N, row_bytes]; scale, zero: [N or 2 N, groups]. GROUP divides BLOCK_K.

    row_bytes = ceil(K / 2) and groups = ceil(K / GROUP) are given, so that the compiler sees how they are aligned.
    """
    HALF: tl.constexpr = GROUP // 2
    GROUPS: tl.constexpr = BLOCK_K // GROUP
    n_N = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows_N = tl.minimum(n_N, N - 1).to(tl.int64)
    total_NG = tl.zeros([BLOCK_N, GROUPS], tl.float32)
    up_NG = tl.zeros([BLOCK_N, GROUPS], tl.float32)
    squares_GB = tl.zeros([GROUPS, HALF], tl.float32)
    for first in range(0, groups, GROUPS):
        group_G = first + tl.arange(0, GROUPS)
        bytes_GB = group_G[:, None] * HALF + tl.arange(0, HALF)[None, :]
        k_GB = 2 * bytes_GB
        even_GB = tl.load(x + k_GB, mask=k_GB < K, other=0.0).to(tl.float32)
        odd_GB = tl.load(x + k_GB + 1, mask=k_GB + 1 < K, other=0.0).to(tl.float32)
        if HAS_NORM:
            squares_GB += even_GB * even_GB + odd_GB * odd_GB
            even_GB *= tl.load(norm + k_GB, mask=k_GB < K, other=0.0)
            odd_GB *= tl.load(norm + k_GB + 1, mask=k_GB + 1 < K, other=0.0)
        even_GB = even_GB.to(X_TYPE).to(tl.float32)
        odd_GB = odd_GB.to(X_TYPE).to(tl.float32)
        total_NG += group_products(weight, scale, zero, rows_N, group_G, bytes_GB, even_GB, odd_GB, row_bytes, groups)
        if GATED:
            up_NG += group_products(
                weight, scale, zero, rows_N + N, group_G, bytes_GB, even_GB, odd_GB, row_bytes, groups
            )
    squares_M = tl.sum(tl.sum(squares_GB, axis=1), axis=0) + tl.zeros([1], tl.float32)
    total_NM, up_NM = tl.sum(total_NG, axis=1)[:, None], tl.sum(up_NG, axis=1)[:, None]
    m_M = tl.arange(0, 1)
    store_tile(
        out, residual, scale, total_NM, up_NM, squares_M, n_N, m_M, N, 1, K, eps, HAS_NORM, HAS_RESIDUAL, GATED, False
    )
