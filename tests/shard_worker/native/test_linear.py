"""Matrix products: every format is its formula in float64, and a row's result is its own."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shard_worker.native.library import Runner
from shard_worker.native.structures import INT4_GROUPS, Matrix, float_matrix, int4_matrix, int8_matrix

ROWS = (1, 2, 3, 4, 5, 8, 15, 32)
COLUMNS = (1, 7, 31, 32, 51, 64, 97, 576)
OUTPUTS = 53

Made = tuple[Matrix, Tensor]  # and its weights, float64[N, K]


def make_float32(columns: int) -> Made:
    weight = torch.randn(OUTPUTS, columns)
    return float_matrix(weight), weight.double()


def make_bfloat16(columns: int) -> Made:
    weight = torch.randn(OUTPUTS, columns).bfloat16()
    return float_matrix(weight), weight.double()


def make_int8(columns: int) -> Made:
    q, scale = torch.randint(-128, 128, (OUTPUTS, columns), dtype=torch.int8), torch.rand(OUTPUTS)
    return int8_matrix(q, scale), q.double() * scale.double().unsqueeze(1)


def make_int4(columns: int, group: int, dtype: torch.dtype) -> Made:
    nibbles = torch.randint(0, 16, (OUTPUTS, columns + columns % 2))
    packed = (nibbles[:, 0::2] | nibbles[:, 1::2] << 4).to(torch.uint8)
    scale, zero = (torch.randn(OUTPUTS, -(-columns // group)).to(dtype) for _ in range(2))

    def spread(values_NG: Tensor) -> Tensor:
        return values_NG.double().repeat_interleave(group, dim=1)[:, :columns]

    weight = (nibbles[:, :columns] - 8).double() * spread(scale) + spread(zero)
    return int4_matrix(packed, scale, zero, columns, group), weight


FORMATS: dict[str, Callable[[int], Made]] = {
    "float32": make_float32,
    "bfloat16": make_bfloat16,
    "int8": make_int8,
    "int4 float32": lambda columns: make_int4(columns, 64, torch.float32),
    **{f"int4 {group}": lambda columns, g=group: make_int4(columns, g, torch.bfloat16) for group in INT4_GROUPS},  # type: ignore[misc]
}


@pytest.mark.parametrize("format", FORMATS)
def test_formats_are_their_formula(runner: Runner, format: str) -> None:
    torch.manual_seed(0)
    for columns in COLUMNS:
        matrix, weight = FORMATS[format](columns)
        x = torch.randn(max(ROWS), columns)
        expected = x.double() @ weight.T
        bound = 1e-6 * (x.double().abs() @ weight.abs().T)
        for rows in ROWS:
            result = runner.linear(x[:rows], matrix)
            assert result.shape == (rows, OUTPUTS)
            assert ((result - expected[:rows]).abs() <= bound[:rows]).all(), (columns, rows)


@pytest.mark.parametrize("format", FORMATS)
def test_rounded_activations_are_their_formula(runner: Runner, format: str) -> None:
    """Each product of two bfloat16 numbers is exact in float32; an int4's value is rounded before."""
    torch.manual_seed(2)
    for columns in COLUMNS:
        matrix, weight = FORMATS[format](columns)
        x = torch.randn(max(ROWS), columns).bfloat16().float()
        expected = x.double() @ weight.T
        bound = (2**-8 if "int4" in format else 1e-6) * (x.double().abs() @ weight.abs().T)
        for rows in ROWS:
            result = runner.linear(x[:rows], matrix, rounds=True)
            assert ((result - expected[:rows]).abs() <= bound[:rows]).all(), (columns, rows)


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_a_row_does_not_depend_on_the_others_or_on_threads(runner: Runner, format: str, rounds: bool) -> None:
    torch.manual_seed(1)
    alone = Runner(1, runner.kernels)
    for columns in (51, 576):
        matrix, _ = FORMATS[format](columns)
        x = torch.randn(13, columns)
        together = runner.linear(x, matrix, rounds)
        for row in range(len(x)):
            assert torch.equal(alone.linear(x[row : row + 1], matrix, rounds)[0], together[row]), (columns, row)


def test_bad_numbers_stay_in_their_row(runner: Runner) -> None:
    matrix, _ = make_bfloat16(100)
    x = torch.randn(3, 100)
    x[1, 5], x[2, 99] = torch.nan, torch.inf
    result = runner.linear(x, matrix)
    assert result[0].isfinite().all() and result[1].isnan().all() and not result[2].isfinite().any()
