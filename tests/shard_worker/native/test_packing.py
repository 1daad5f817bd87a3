"""Packed matrices: the same numbers in another order, and products of 8-bit activations with them."""

import pytest
import torch
from torch import Tensor, nn

from common.errors import SettingsError
from shard_worker.model.linear import Int4Linear, Int8Linear, Linear
from shard_worker.native.decoder import matrix_of
from shard_worker.native.library import Runner
from shard_worker.native.packing import PackedInt4, PackedInt8, pack_matrices
from shard_worker.native.structures import INT4_GROUPS
from shard_worker.quantization.formats import quantize_int4, quantize_int8

COLUMNS = (1, 31, 33, 64, 101, 576)
OUTPUTS = 53
FORMATS = ("int8", *INT4_GROUPS)


def make(format: str | int, columns: int, outputs: int = OUTPUTS) -> Int8Linear | Int4Linear:
    weight = torch.randn(outputs, columns)
    if isinstance(format, str):
        return Int8Linear(*quantize_int8(weight))
    return Int4Linear(*quantize_int4(weight, format), format, columns)


def pack(linear: Int8Linear | Int4Linear) -> PackedInt8 | PackedInt4:
    return PackedInt8(linear) if isinstance(linear, Int8Linear) else PackedInt4(linear)


def rounded(x_MK: Tensor) -> Tensor:
    """Return x as a product takes it: in each block of 32 columns, multiples of the largest magnitude / 127."""
    rows, columns = x_MK.shape
    blocks = nn.functional.pad(x_MK, (0, -columns % 32)).view(rows, -1, 32)
    scale = blocks.abs().amax(dim=2, keepdim=True) / 127
    return ((blocks / scale.where(scale > 0, 1)).round() * scale).flatten(1)[:, :columns]


@pytest.fixture
def packing(runner: Runner) -> Runner:
    """A runner that has integer products."""
    if not runner.packs:
        pytest.skip(f"{runner.kernels} has no integer products")
    return runner


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_lost(format: str | int) -> None:
    torch.manual_seed(0)
    for columns in COLUMNS:
        linear = make(format, columns)
        packed, ids = pack(linear), torch.tensor([[52, 0], [17, 16]])
        assert torch.equal(packed.rows(ids, torch.float32), linear.rows(ids, torch.float32))
        x = torch.randn(3, columns)
        assert torch.equal(packed(x), linear(x))


@pytest.mark.parametrize("format", FORMATS)
def test_products_are_their_formula(packing: Runner, format: str | int) -> None:
    torch.manual_seed(1)
    for columns in COLUMNS:
        linear = make(format, columns)
        matrix, weight = matrix_of(pack(linear)), linear.rows(torch.arange(OUTPUTS), torch.float32).double()
        x = torch.randn(19, columns)
        x[2] = 0
        expected = rounded(x).double() @ weight.T
        # A number midway between two multiples may go either way, by the last bit of their distance.
        midway = 2e-3 * (x.abs().amax(dim=1, keepdim=True) * weight.abs().amax(dim=1)).double()
        bound = 2e-6 * (x.double().abs() @ weight.abs().T) + midway / columns
        for rows in (1, 2, 3, 4, 7, 8, 19):
            result = packing.linear(x[:rows], matrix)
            assert ((result - expected[:rows]).abs() <= bound[:rows]).all(), (columns, rows)


def test_extreme_integers(packing: Runner) -> None:
    """Every product at its largest: nothing saturates."""
    q = torch.full((16, 64), -128, dtype=torch.int8)
    q[1::2] = 127
    matrix = matrix_of(PackedInt8(Int8Linear(q, torch.ones(16))))
    for sign in (1.0, -1.0):
        result = packing.linear(torch.full((2, 64), 127 * sign), matrix)
        assert torch.equal(result, (q.float().sum(dim=1) * 127 * sign).expand(2, -1))


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_does_not_depend_on_the_others_or_on_threads(packing: Runner, format: str | int) -> None:
    torch.manual_seed(2)
    matrix, x = matrix_of(pack(make(format, 576))), torch.randn(21, 576)
    alone = Runner(1, packing.kernels)
    together = packing.linear(x, matrix)
    for row in range(len(x)):
        assert torch.equal(alone.linear(x[row : row + 1], matrix)[0], together[row])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bad_numbers_stay_in_their_row(packing: Runner, bad: float) -> None:
    x = torch.randn(3, 100)
    x[1, 5] = bad
    for format in FORMATS:
        result = packing.linear(x, matrix_of(pack(make(format, 100))))
        assert result[0].isfinite().all() and not result[1].isfinite().any() and result[2].isfinite().all()


def test_unknown_groups_are_refused() -> None:
    model = nn.Sequential(make("int8", 64), Int4Linear(*quantize_int4(torch.randn(16, 64), 16), 16, 64))
    with pytest.raises(SettingsError, match="no kernel for int4 in groups of 16 columns"):
        pack_matrices(model)
    assert [type(module) for module in model] == [Int8Linear, Int4Linear]


def test_a_shared_matrix_stays_shared() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding: Linear = make("int8", 64)
            self.layers = nn.ModuleList([make(32, 64), nn.Linear(3, 3)])
            self.head: Linear = self.embedding

    model = Model()
    pack_matrices(model)
    assert isinstance(model.embedding, PackedInt8) and model.head is model.embedding
    assert [type(layer) for layer in model.layers] == [PackedInt4, nn.Linear]
