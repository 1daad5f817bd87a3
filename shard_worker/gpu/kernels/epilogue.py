"""What happens to a tile of products before it is stored: scale, norm, SiLU gate, residual."""

import triton
import triton.language as tl


@triton.jit
def store_tile(
    out,
    residual,
    scale,
    total_NM,
    up_NM,
    squares_M,
    n_N,
    m_M,
    N,
    M,
    K,
    eps,
    HAS_NORM: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    GATED: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Store outputs n of rows m at out[m, n].

    HAS_NORM: the inputs were not yet divided by their root mean square; squares_M are their sums of squares.
    GATED: silu(total) * up. SCALED: int8, one factor an output row; up's rows begin at N.
    """
    inside_N = n_N < N
    if SCALED:
        total_NM *= tl.load(scale + n_N, mask=inside_N, other=0.0)[:, None]
        if GATED:
            up_NM *= tl.load(scale + N + n_N, mask=inside_N, other=0.0)[:, None]
    if HAS_NORM:
        factor_M = 1.0 / tl.sqrt(squares_M / K + eps)
        total_NM *= factor_M[None, :]
        if GATED:
            up_NM *= factor_M[None, :]
    if GATED:
        total_NM = total_NM / (1.0 + tl.exp(-total_NM)) * up_NM
    at_NM = m_M[None, :] * N + n_N[:, None]
    inside_NM = inside_N[:, None] & (m_M[None, :] < M)
    if HAS_RESIDUAL:
        total_NM += tl.load(residual + at_NM, mask=inside_NM, other=0.0)
    tl.store(out + at_NM, total_NM.to(out.dtype.element_ty), mask=inside_NM)
