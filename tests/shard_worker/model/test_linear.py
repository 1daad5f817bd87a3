"""A stored matrix multiplies and looks up rows as the float matrix it stands for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shard_worker.model.linear import FloatLinear, Int4Linear, Int8Linear, Linear
from shard_worker.quantization.formats import dequantize_int4, dequantize_int8, quantize_int4, quantize_int8

GROUP_SIZE = 32
SHAPES = [(1, 2), (7, 33), (24, 96), (5, 131)]


def float_linear(w_NK: Tensor) -> tuple[Linear, Tensor]:
    return FloatLinear(w_NK), w_NK


def int8_linear(w_NK: Tensor) -> tuple[Linear, Tensor]:
    q_NK, scale_N = quantize_int8(w_NK)
    return Int8Linear(q_NK, scale_N), dequantize_int8(q_NK, scale_N)


def int4_linear(w_NK: Tensor) -> tuple[Linear, Tensor]:
    parts = quantize_int4(w_NK, GROUP_SIZE)
    return Int4Linear(*parts, GROUP_SIZE, w_NK.shape[1]), dequantize_int4(*parts, GROUP_SIZE, w_NK.shape[1])


MAKERS = [float_linear, int8_linear, int4_linear]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_float_matrix(make: Callable[[Tensor], tuple[Linear, Tensor]], shape: tuple[int, int]) -> None:
    linear, w_NK = make(torch.randn(shape))
    assert (linear.out_features, linear.in_features) == shape
    for leading in ((3,), (2, 5), ()):
        x = torch.randn(*leading, shape[1])
        torch.testing.assert_close(linear(x), x @ w_NK.T, atol=1e-4, rtol=1e-5)
        ids = torch.randint(0, shape[0], leading)
        assert torch.equal(linear.rows(ids, torch.float32), w_NK[ids])
        assert torch.equal(linear.rows(ids, torch.bfloat16), w_NK[ids].bfloat16())


@pytest.mark.parametrize("make", MAKERS)
def test_bfloat16_in_bfloat16_out(make: Callable[[Tensor], tuple[Linear, Tensor]]) -> None:
    linear, w_NK = make(torch.randn(64, 256).bfloat16().float())
    if isinstance(linear, FloatLinear):
        linear = FloatLinear(linear.weight.bfloat16())
    x = torch.randn(9, 256).bfloat16()
    y = linear(x)
    assert y.dtype == torch.bfloat16
    exact = x.double() @ w_NK.double().T
    assert (y - exact).abs().mean() < 0.01 * exact.abs().mean()


def test_a_loaded_matrix_has_no_gradient() -> None:
    for make in MAKERS:
        linear, _ = make(torch.randn(4, 64))
        assert not any(parameter.requires_grad for parameter in linear.parameters())
