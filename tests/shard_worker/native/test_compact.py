"""Compact bfloat16 matrices: not a bit is lost, and products are their formula with every instruction set."""

import pytest
import torch
from torch import Tensor

from shard_worker.model.linear import FloatLinear
from shard_worker.native.compact import WEIGHTS_PER_EXCEPTION, CompactLinear, compact
from shard_worker.native.decoder import matrix_of
from shard_worker.native.library import Runner

SHAPES = ((63, 31), (32, 16), (15, 900), (47, 64), (64, 101), (100, 576), (31, 1536))
ROWS = (1, 2, 3, 4, 7, 8, 15, 16, 17, 40)
SPECIAL = (0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-40, -1e-40, 3e38, -3e38, 1e-30)


@pytest.fixture
def packing(runner: Runner) -> Runner:
    """A runner that multiplies compact matrices."""
    if not runner.packs:
        pytest.skip(f"{runner.kernels} has no compact products")
    return runner


def bits(weight: Tensor) -> Tensor:
    return weight.contiguous().view(torch.int16)


def made(weight_NK: Tensor, runner: Runner) -> CompactLinear:
    linear = compact(weight_NK, runner)
    assert linear is not None
    return linear


def unusual(rows: int, columns: int, places: list[tuple[int, int]]) -> Tensor:
    """Return weights of just 16 high bytes, all frequent, but for exceptions, large and small in turn, at `places`."""
    weight = (2 ** (torch.rand(rows, columns) * 15.9 - 13) * torch.randn(rows, columns).sign()).bfloat16()
    for index, (row, column) in enumerate(places):
        weight[row, column] = (40.0, -1e-9, -70.0, 2e-12)[index % 4]
    return weight


def assert_is_product(result: Tensor, x: Tensor, weight: Tensor) -> None:
    """Each product of two bfloat16 numbers is exact in float32; sums are not."""
    expected = x.double() @ weight.double().T
    assert ((result - expected).abs() <= 3e-6 * (x.double().abs() @ weight.double().abs().T)).all()


@pytest.mark.parametrize("rows, columns", SHAPES)
def test_not_a_bit_is_lost(packing: Runner, rows: int, columns: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(rows, columns).bfloat16()
    places = torch.randperm(weight.numel())[: min(len(SPECIAL), weight.numel() // WEIGHTS_PER_EXCEPTION)]
    weight.view(-1)[places] = torch.tensor(SPECIAL).bfloat16()[: len(places)]
    linear, order = made(weight, packing), torch.randperm(rows)
    assert torch.equal(bits(linear.rows(order, torch.bfloat16)), bits(weight[order]))
    assert linear.packed.nbytes + linear.exceptions.nbytes < weight.nbytes


@pytest.mark.parametrize("values", [[0.0, -0.0], [torch.inf, torch.nan], [1e-40, -2e-39, 3e-41], [1.0]])
def test_matrices_of_few_values(packing: Runner, values: list[float]) -> None:
    weight = torch.tensor(values).bfloat16()[torch.randint(len(values), (40, 100))]
    linear = made(weight, packing)
    assert torch.equal(bits(linear.rows(torch.arange(40), torch.bfloat16)), bits(weight))
    assert len(linear.exceptions) == 0


def test_too_many_exceptions_are_refused(packing: Runner) -> None:
    assert compact(torch.randint(-(2**15), 2**15, (64, 64), dtype=torch.int16).view(torch.bfloat16), packing) is None
    values = torch.tensor([2.0 ** (16 - 2 * power) for power in range(16)])  # a whole table of high bytes
    weight = values.bfloat16().repeat(64, 4)
    for panel, count in enumerate((20, 20, 20, 4)):
        weight.view(-1)[1024 * panel + 40 :][:count] = -1e-9
    linear = made(weight, packing)
    assert len(linear.exceptions) == 64 * 64 // WEIGHTS_PER_EXCEPTION
    assert torch.equal(bits(linear.rows(torch.arange(64), torch.bfloat16)), bits(weight))
    weight[63, 63] = -1e-9
    assert compact(weight, packing) is None


def test_what_would_not_be_smaller_is_refused(packing: Runner) -> None:
    assert compact(torch.randn(3, 100).bfloat16(), packing) is None


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("rows, columns", SHAPES)
def test_products_are_their_formula(packing: Runner, rows: int, columns: int, rounds: bool) -> None:
    torch.manual_seed(1)
    corners = [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)]
    weight = unusual(rows, columns, corners)
    linear = made(weight, packing)
    assert len(linear.exceptions) == len(corners)
    x = torch.randn(max(ROWS), columns).bfloat16().float()
    for count in ROWS:
        result = packing.linear(x[:count], matrix_of(linear), rounds)
        assert result.shape == (count, rows)
        assert_is_product(result, x[:count], weight)


@pytest.mark.parametrize("rounds", [False, True])
def test_an_exception_in_every_lane(packing: Runner, rounds: bool) -> None:
    torch.manual_seed(2)
    weight = unusual(32, 200, [(lane, 199 - 11 * (lane % 16)) for lane in range(32)])
    linear = made(weight, packing)
    assert len(linear.exceptions) == 32
    for count in (1, 5, 40):
        x = torch.randn(count, 200).bfloat16().float()
        assert_is_product(packing.linear(x, matrix_of(linear), rounds), x, weight)


@pytest.mark.parametrize("rounds", [False, True])
def test_a_row_does_not_depend_on_the_others_or_on_threads(packing: Runner, rounds: bool) -> None:
    torch.manual_seed(3)
    alone = Runner(1, packing.kernels)
    for columns in (51, 576):
        matrix = matrix_of(made(unusual(63, columns, [(7, 3), (62, 50)]), packing))
        x = torch.randn(43, columns)
        together = packing.linear(x, matrix, rounds)
        for count in (1, 3, 9, 17):
            assert torch.equal(alone.linear(x[:count], matrix, rounds), together[:count]), (columns, count)


def test_infinite_weights_and_activations(packing: Runner) -> None:
    weight = torch.randn(32, 100).bfloat16()
    weight[3, 5], weight[4, 6] = torch.inf, torch.nan
    x = torch.randn(3, 100)
    x[1, 7] = torch.nan
    result = packing.linear(x, matrix_of(made(weight, packing)))
    sound = torch.arange(32).ne(3) & torch.arange(32).ne(4)
    assert result[0, sound].isfinite().all() and result[2, sound].isfinite().all()
    assert result[0, 3].isinf() and result[0, 4].isnan() and result[1].isnan().all()


def test_pytorch_multiplies_it_as_the_plain_matrix(packing: Runner) -> None:
    weight = unusual(2100, 64, [(0, 0), (1030, 63), (2099, 5)])
    linear, plain = made(weight, packing), FloatLinear(weight)
    x = torch.randn(3, 64).bfloat16()
    torch.testing.assert_close(linear(x), plain(x))
    ids = torch.tensor([[2099, 0], [1030, 0]])
    assert torch.equal(linear.rows(ids, torch.float32), plain.rows(ids, torch.float32))
