"""The int8 and int4 formats: formula, error bounds, awkward shapes, and what is refused."""

import pytest
import torch
from torch import Tensor

from common.errors import CheckpointError
from shard_worker.quantization.formats import (
    dequantize_int4,
    dequantize_int8,
    pack_nibbles,
    quantize_int4,
    quantize_int8,
    unpack_nibbles,
)

SHAPES = [(1, 1), (3, 2), (5, 31), (7, 32), (4, 33), (6, 576), (2, 577)]
GROUPS = [2, 32, 64, 128, 256]


def random_matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows and columns of very different sizes, off centre."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(rows, 1, generator=generator).exp() * torch.rand(1, columns, generator=generator)
    return (torch.randn(rows, columns, generator=generator) + 0.3) * size


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_within_half_a_step(shape: tuple[int, int]) -> None:
    w_NK = random_matrix(*shape)
    q_NK, scale_N = quantize_int8(w_NK)
    assert (q_NK.dtype, scale_N.dtype, q_NK.shape, scale_N.shape) == (torch.int8, torch.float32, shape, shape[:1])
    assert q_NK.int().abs().amax(dim=1).eq(127).all()
    back_NK = dequantize_int8(q_NK, scale_N)
    assert ((back_NK - w_NK).abs() <= 0.5001 * scale_N[:, None]).all()
    for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1)):
        assert back_NK[row, column] == q_NK[row, column].item() * scale_N[row]


@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_int4_is_within_half_a_step(shape: tuple[int, int], group_size: int) -> None:
    w_NK = random_matrix(*shape)
    rows, columns = shape
    packed, scale_NG, zero_NG = quantize_int4(w_NK, group_size)
    groups = -(-columns // group_size)
    assert (packed.shape, scale_NG.shape, zero_NG.shape) == ((rows, -(-columns // 2)), *[(rows, groups)] * 2)
    assert (packed.dtype, scale_NG.dtype, zero_NG.dtype) == (torch.uint8, torch.bfloat16, torch.bfloat16)
    back_NK = dequantize_int4(packed, scale_NG, zero_NG, group_size, columns)
    for group in range(groups):
        part = slice(group * group_size, min((group + 1) * group_size, columns))
        span_N = w_NK[:, part].abs().amax(dim=1)
        # Half a step, and what bfloat16 (8 bits) rounds off the scale, over 8 steps, and off the zero.
        bound_N = scale_NG[:, group].float() * (0.5 + 8 / 256) + span_N / 256
        assert ((back_NK[:, part] - w_NK[:, part]).abs() <= bound_N[:, None]).all()


def test_int4_is_its_formula_element_by_element() -> None:
    rows, columns, group_size = 3, 69, 32
    packed, scale_NG, zero_NG = quantize_int4(random_matrix(rows, columns), group_size)
    back_NK = dequantize_int4(packed, scale_NG, zero_NG, group_size, columns)
    for n in range(rows):
        for k in range(columns):
            byte = int(packed[n, k // 2])
            q = byte >> 4 if k % 2 else byte & 15
            scale, zero = float(scale_NG[n, k // group_size]), float(zero_NG[n, k // group_size])
            assert float(back_NK[n, k]) == pytest.approx((q - 8) * scale + zero, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("columns", [1, 2, 7, 64])
def test_nibbles_come_back(columns: int) -> None:
    q_NK = torch.randint(0, 16, (5, columns), dtype=torch.uint8)
    packed = pack_nibbles(q_NK)
    assert torch.equal(unpack_nibbles(packed, columns), q_NK)
    if columns > 1:
        assert int(packed[0, 0]) == int(q_NK[0, 0]) + 16 * int(q_NK[0, 1])
    if columns % 2:
        assert (packed[:, -1] < 16).all()


def test_what_is_on_a_grid_stays_exact() -> None:
    q_NK = torch.arange(16).repeat(4, 4)[:, torch.randperm(64)]
    w_NK = (q_NK - 8) * 0.0625 + 0.25
    packed, scale, zero = quantize_int4(w_NK, 64)
    assert torch.equal(dequantize_int4(packed, scale, zero, 64, 64), w_NK)
    q8_NK = torch.cat((torch.arange(-127, 128), torch.tensor([127])))[None]
    assert torch.equal(dequantize_int8(*quantize_int8(q8_NK * 0.5)), q8_NK * 0.5)


def test_zeros_and_constants_stay_exact() -> None:
    w_NK = torch.zeros(3, 70)
    w_NK[1] = -1.5
    w_NK[2, 64:] = 0.75  # constant in its last, partial group alone
    assert torch.equal(dequantize_int4(*quantize_int4(w_NK, 32), 32, 70), w_NK)
    back_NK = dequantize_int8(*quantize_int8(w_NK))
    torch.testing.assert_close(back_NK, w_NK, rtol=1e-6, atol=0)
    assert back_NK[0].eq(0).all()


def test_a_partial_group_is_not_widened() -> None:
    w_NK = torch.linspace(5.0, 6.0, 40)[None]
    _, scale, _ = quantize_int4(w_NK, 32)
    assert float(scale[0, 1]) == pytest.approx((7 / 39) / 15, rel=0.01)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    w_NK = random_matrix(2, 40)
    w_NK[1, 39] = bad
    with pytest.raises(CheckpointError, match="not a finite number"):
        quantize_int8(w_NK)
    with pytest.raises(CheckpointError, match="not a finite number"):
        quantize_int4(w_NK, 32)


def test_a_span_without_a_scale_is_refused() -> None:
    with pytest.raises(CheckpointError, match="spans more than a bfloat16 scale can express"):
        quantize_int4(torch.tensor([[3e38, -3e38]]), 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_read_exactly(dtype: torch.dtype) -> None:
    w_NK = random_matrix(4, 48).to(dtype)
    for one, other in zip(quantize_int4(w_NK, 32), quantize_int4(w_NK.float(), 32), strict=True):
        assert torch.equal(one, other)
