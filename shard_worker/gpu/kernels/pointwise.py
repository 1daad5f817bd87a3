"""What lies between the products: the norm of several rows, and rotating and storing a step's heads."""

import triton
import triton.language as tl


@triton.jit
def rms_norm(x, weight, out, K, eps, BLOCK_K: tl.constexpr):
    """out[m] = x[m] / rms(x[m]) * weight for the program's row m of x[M, K]; float32 inside."""
    row = tl.program_id(0).to(tl.int64) * K
    squares_K = tl.zeros([BLOCK_K], tl.float32)
    for first in range(0, K, BLOCK_K):
        k_K = first + tl.arange(0, BLOCK_K)
        x_K = tl.load(x + row + k_K, mask=k_K < K, other=0.0)
        squares_K += x_K * x_K
    factor = 1.0 / tl.sqrt(tl.sum(squares_K, axis=0) / K + eps)
    for first in range(0, K, BLOCK_K):
        k_K = first + tl.arange(0, BLOCK_K)
        inside_K = k_K < K
        x_K = tl.load(x + row + k_K, mask=inside_K, other=0.0) * factor
        x_K *= tl.load(weight + k_K, mask=inside_K, other=0.0)
        tl.store(out + row + k_K, x_K.to(out.dtype.element_ty), mask=inside_K)


@triton.jit
def rotate_and_store(
    qkv,
    positions,
    slots,
    cos,
    sin,
    q,
    cache,
    QUERIES: tl.constexpr,
    KV: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Rotate head program_id(1) of token program_id(0); queries go to q[N, QUERIES, D], keys and values to the cache.

    qkv: float32[N, QUERIES + 2 KV, D]; cache: [slots, 2 KV, D]; HALF is D / 2. A token with slot -1 stores nothing.
    """
    D: tl.constexpr = 2 * HALF
    token, head = tl.program_id(0), tl.program_id(1)
    d_D = tl.arange(0, BLOCK_D)
    inside_D = d_D < HALF
    at_D = (token * (QUERIES + 2 * KV) + head) * D + d_D
    first_D = tl.load(qkv + at_D, mask=inside_D, other=0.0)
    second_D = tl.load(qkv + at_D + HALF, mask=inside_D, other=0.0)
    if head < QUERIES + KV:
        angle_D = tl.maximum(tl.load(positions + token), 0) * HALF + d_D
        cos_D = tl.load(cos + angle_D, mask=inside_D, other=0.0)
        sin_D = tl.load(sin + angle_D, mask=inside_D, other=0.0)
        turned_D = first_D * cos_D - second_D * sin_D
        second_D = second_D * cos_D + first_D * sin_D
        first_D = turned_D
    if head < QUERIES:
        to_D = (token * QUERIES + head) * D + d_D
        tl.store(q + to_D, first_D.to(q.dtype.element_ty), mask=inside_D)
        tl.store(q + to_D + HALF, second_D.to(q.dtype.element_ty), mask=inside_D)
    else:
        slot = tl.load(slots + token)
        stored_D = cache + (slot * (2 * KV) + head - QUERIES) * D + d_D
        tl.store(stored_D, first_D.to(cache.dtype.element_ty), mask=inside_D & (slot >= 0))
        tl.store(stored_D + HALF, second_D.to(cache.dtype.element_ty), mask=inside_D & (slot >= 0))
