"""Matrices go to the kernels as they are, and forms that no kernel knows are refused."""

import pytest
import torch

from common.errors import SettingsError
from shard_worker.gpu.matrices import matrix_of
from shard_worker.model.linear import FloatLinear, Int4Linear, Int8Linear
from shard_worker.quantization.formats import quantize_int4, quantize_int8
from tests.support.torch_operations import dense

W = torch.randn(6, 70, generator=torch.Generator().manual_seed(0))


def test_values_and_sizes_are_the_layer_s() -> None:
    q, scale = quantize_int8(W)
    int4 = Int4Linear(*quantize_int4(W, 32), 32, 70)
    for linear in (FloatLinear(W), FloatLinear(W.bfloat16()), Int8Linear(q, scale), int4):
        matrix = matrix_of(linear)
        assert torch.equal(dense(matrix), linear.rows(torch.arange(6), torch.float32))
        assert (matrix.rows, matrix.columns) == (6, 70)
    assert matrix_of(int4).num_bytes == 6 * 35 + 2 * 6 * 3 * 2


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(SettingsError, match="no kernel for FloatLinear"):
        matrix_of(FloatLinear(W.half()))
    with pytest.raises(SettingsError, match="no kernel for Int4Linear"):
        matrix_of(Int4Linear(*quantize_int4(W, 48), 48, 70))
