"""GPTQ (Frantar et al. 2022): rounding a matrix column by column, each error made good by the columns to come.

The matrix's outputs on calibration inputs x are to change least, so all that counts is their Gram matrix, x xᵀ.
https://arxiv.org/abs/2210.17323, Algorithm 1
"""

import torch
from torch import Tensor

from common.errors import CheckpointError
from shard_worker.quantization.formats import group_grid, int4_values, nearest_int4, pack_nibbles

BLOCK_COLUMNS = 128
DAMPING = 0.01
MAX_DAMPING = 1.0


def quantize_gptq(w_NK: Tensor, gram_KK: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, scale and zero of the int4 format.

    `gram_KK` is the sum of x xᵀ over the calibration inputs, on w's device. A group's grid is fixed when its first
    column is reached, from the weights as they are by then. Raises CheckpointError unless both are finite.
    """
    if not (w_NK.isfinite().all() and gram_KK.isfinite().all()):
        raise CheckpointError("a weight or a calibration input is not a finite number")
    w_NK = w_NK.float().clone()
    factor_KK = _inverse_factor(gram_KK)
    q_NK = torch.empty_like(w_NK, dtype=torch.uint8)
    scales, zeros = [], []
    columns = w_NK.shape[1]
    block_columns = max(BLOCK_COLUMNS, group_size)
    assert block_columns % group_size == 0, group_size
    for start in range(0, columns, block_columns):
        stop = min(start + block_columns, columns)
        errors = torch.empty_like(w_NK[:, start:stop])
        for column in range(start, stop):
            if column % group_size == 0:
                scale_N, zero_N = group_grid(w_NK[:, column : min(column + group_size, columns)])
                scales.append(scale_N)
                zeros.append(zero_N)
            q_NK[:, column] = nearest_int4(w_NK[:, column], scale_N, zero_N)
            left = w_NK[:, column] - int4_values(q_NK[:, column], scale_N, zero_N)
            error = left / factor_KK[column, column]
            w_NK[:, column:stop] -= torch.outer(error, factor_KK[column, column:stop])
            errors[:, column - start] = error
        w_NK[:, stop:] -= errors @ factor_KK[start:stop, stop:]
    return pack_nibbles(q_NK), torch.stack(scales, dim=1), torch.stack(zeros, dim=1)


def _inverse_factor(gram_KK: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the damped Gram matrix's inverse, float32[K, K].

    An input that was never active is set apart, so that its weights are rounded to nearest.
    """
    gram_KK = gram_KK.double()
    diagonal_K = gram_KK.diagonal()
    mean = diagonal_K.mean()
    damped_KK = gram_KK + torch.diag((diagonal_K == 0).double() * (mean if mean > 0 else 1.0))
    identity_KK = torch.eye(len(gram_KK), dtype=torch.float64, device=gram_KK.device)
    damping = DAMPING
    while damping <= MAX_DAMPING:
        lower_KK, failed = torch.linalg.cholesky_ex(damped_KK + damping * mean * identity_KK)
        if not failed:
            upper_KK, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_KK), upper=True)
            if not failed:
                factor_KK: Tensor = upper_KK.float()
                return factor_KK
        damping *= 10
    raise CheckpointError("the calibration inputs are too ill-conditioned for GPTQ; use another or a longer text")
