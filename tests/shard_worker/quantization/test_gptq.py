"""GPTQ beats rounding to nearest where inputs are correlated, and is it where they are not."""

import pytest
import torch
from torch import Tensor

from common.errors import CheckpointError
from shard_worker.quantization.formats import (
    dequantize_int4,
    nearest_int4,
    per_column,
    quantize_int4,
    unpack_nibbles,
)
from shard_worker.quantization.gptq import quantize_gptq


def correlated_inputs(columns: int, count: int = 2000, seed: int = 0) -> Tensor:
    """Inputs x[count, columns] of which a few directions carry most."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(count, 8, generator=generator) @ torch.randn(8, columns, generator=generator)
    return few + 0.5 * torch.randn(count, columns, generator=generator)


def weights(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def output_error(x: Tensor, w_NK: Tensor, quantized: tuple[Tensor, Tensor, Tensor], group_size: int) -> float:
    """Mean squared error of the outputs on inputs x."""
    back_NK = dequantize_int4(*quantized, group_size, w_NK.shape[1])
    return ((x @ (back_NK - w_NK).T) ** 2).mean().item()


@pytest.mark.parametrize(("columns", "group_size"), [(96, 32), (101, 32), (200, 64), (300, 128), (600, 256), (48, 8)])
def test_it_beats_rounding_on_inputs_it_has_not_seen(columns: int, group_size: int) -> None:
    w_NK, x = weights(20, columns), correlated_inputs(columns)
    solved = quantize_gptq(w_NK, x[:1500].T @ x[:1500], group_size)
    nearest = quantize_int4(w_NK, group_size)
    assert [part.shape for part in solved] == [part.shape for part in nearest]
    assert [part.dtype for part in solved] == [part.dtype for part in nearest]
    assert output_error(x[1500:], w_NK, solved, group_size) < 0.5 * output_error(x[1500:], w_NK, nearest, group_size)


def weight_error(w_NK: Tensor, quantized: tuple[Tensor, Tensor, Tensor]) -> float:
    return (dequantize_int4(*quantized, 32, w_NK.shape[1]) - w_NK).pow(2).sum().item()


def test_uncorrelated_inputs_leave_only_the_grid_to_choose() -> None:
    """Nothing can be made good: each weight goes to the nearest point of a grid that is no worse than the widest."""
    w_NK = weights(10, 70)
    packed, scale_NG, zero_NG = quantize_gptq(w_NK, torch.eye(70), 32)
    scale_NK, zero_NK = per_column(scale_NG, 32, 70), per_column(zero_NG, 32, 70)
    assert torch.equal(unpack_nibbles(packed, 70), nearest_int4(w_NK, scale_NK, zero_NK))
    nearest = quantize_int4(w_NK, 32)
    assert weight_error(w_NK, (packed, scale_NG, zero_NG)) < weight_error(w_NK, nearest)
    assert (scale_NG <= nearest[1]).all() and (scale_NG < nearest[1]).any()


def test_what_is_on_a_grid_stays_exact() -> None:
    # Each group holds both ends of the grid, or another grid would be chosen for it.
    shuffled_K = torch.randperm(128, generator=torch.Generator().manual_seed(0))
    w_NK = (torch.arange(16).repeat(4, 8)[:, shuffled_K] - 8) * 0.125 - 0.5
    x = correlated_inputs(128)
    assert torch.equal(dequantize_int4(*quantize_gptq(w_NK, x.T @ x, 64), 64, 128), w_NK)


def test_inputs_that_were_never_active_are_rounded_on_their_own() -> None:
    w_NK, x = weights(10, 64), correlated_inputs(64)
    x[:, 32:] = 0
    solved, nearest = quantize_gptq(w_NK, x.T @ x, 32), quantize_int4(w_NK, 32)
    back_NK, nearest_NK = dequantize_int4(*solved, 32, 64), dequantize_int4(*nearest, 32, 64)
    assert (back_NK - w_NK)[:, 32:].pow(2).sum() <= (nearest_NK - w_NK)[:, 32:].pow(2).sum()
    assert output_error(x, w_NK, solved, 32) < 0.5 * output_error(x, w_NK, nearest, 32)
    assert weight_error(w_NK, quantize_gptq(w_NK, torch.zeros(64, 64), 32)) <= weight_error(w_NK, nearest)


def test_fewer_samples_than_columns_will_do() -> None:
    w_NK, x = weights(10, 128), correlated_inputs(128, count=20)
    solved = quantize_gptq(w_NK, x.T @ x, 64)
    assert output_error(x, w_NK, solved, 64) < 0.2 * output_error(x, w_NK, quantize_int4(w_NK, 64), 64)


def test_zeros_stay_zero() -> None:
    x = correlated_inputs(64)
    solved = quantize_gptq(torch.zeros(3, 64), x.T @ x, 32)
    assert dequantize_int4(*solved, 32, 64).eq(0).all()


def test_what_is_not_finite_is_refused() -> None:
    w_NK, gram_KK = weights(4, 32), torch.eye(32)
    w_NK[2, 3] = float("nan")
    with pytest.raises(CheckpointError, match="not a finite number"):
        quantize_gptq(w_NK, gram_KK, 32)
    gram_KK[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match="not a finite number"):
        quantize_gptq(weights(4, 32), gram_KK, 32)


def test_a_matrix_that_is_no_gram_matrix_is_refused() -> None:
    gram_KK = torch.eye(32)
    gram_KK[0, 1] = gram_KK[1, 0] = 50.0
    with pytest.raises(CheckpointError, match="ill-conditioned"):
        quantize_gptq(weights(4, 32), gram_KK, 32)
