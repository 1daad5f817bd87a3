"""Each Triton kernel computes what plain PyTorch does: all formats, odd sizes, one row and many."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shard_worker.gpu.matrices import Matrix, matrix_of
from shard_worker.model.linear import FloatLinear, Int4Linear, Int8Linear, Linear
from shard_worker.model.llama import Norm
from shard_worker.quantization.formats import quantize_int4, quantize_int8
from tests.support.gpu_pair import GpuPair, MakeOperations
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model
from tests.support.torch_operations import TorchOperations

# Triton's interpreter on a CPU makes use of what numpy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")

STEPS = [[(1, 0)], [(1, 200)], [(1, 0), (1, 15), (5, 70)], [(20, 100), (1, 300)]]
FORMATS = ("float32", "bfloat16", "int8", "int4 g32", "int4 g8", "int4 g128")


def random_linear(stored: str, rows: int, columns: int) -> Linear:
    """Return a matrix in one of FORMATS."""
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) / columns**0.5
    if stored == "int8":
        return Int8Linear(*quantize_int8(weight))
    if stored.startswith("int4"):
        group_size = int(stored.partition(" g")[2])
        return Int4Linear(*quantize_int4(weight, group_size), group_size, columns)
    return FloatLinear(weight.to(getattr(torch, stored)))


@pytest.mark.parametrize("stored", FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("columns", [144, 61])
def test_products(
    tiny_model: TinyModel,
    triton_device: torch.device,
    triton_operations: MakeOperations,
    stored: str,
    rows: int,
    columns: int,
) -> None:
    pair = GpuPair(tiny_model.folder, TorchOperations, triton_device)
    part = (pair.model, pair.caches[1], pair.partition)
    ours, theirs = triton_operations(*part), TorchOperations(*part)
    matrix: Matrix = matrix_of(random_linear(stored, 38, columns).to(triton_device))
    norm = Norm(columns, 1e-5)
    norm.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, columns, device=triton_device), requires_grad=False)
    x_NM = torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)).to(triton_device)
    residual_NO = torch.randn(rows, 38, generator=torch.Generator().manual_seed(2)).to(triton_device)

    def check(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)

    check(ours.linear(x_NM, matrix), theirs.linear(x_NM, matrix))
    check(ours.linear(x_NM, matrix, norm), theirs.linear(x_NM, matrix, norm))
    check(ours.linear(x_NM, matrix, None, residual_NO), theirs.linear(x_NM, matrix, None, residual_NO))
    check(ours.gated(x_NM, matrix, norm), theirs.gated(x_NM, matrix, norm))


@pytest.mark.parametrize(
    "shape", [TinyShape(), TinyShape(query_heads=4, kv_heads=1, head_dim=20, llama3_rope=True, tied=True)], ids=str
)
@pytest.mark.parametrize("splits", [1, 3])
def test_whole_steps(
    tmp_path: Path,
    triton_device: torch.device,
    triton_operations: MakeOperations,
    monkeypatch: pytest.MonkeyPatch,
    shape: TinyShape,
    splits: int,
) -> None:
    pair = GpuPair(make_tiny_model(tmp_path, shape).folder, triton_operations, triton_device)
    monkeypatch.setattr(pair.operations, "splits", lambda num_tokens: splits)
    for rows in STEPS:
        ours, expected = pair.step(rows)
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
        for cache, expected_cache in pair.cache_pairs():
            torch.testing.assert_close(cache, expected_cache, atol=2e-5, rtol=2e-5)


def test_bfloat16_is_closer_to_exact_than_pytorch(
    tmp_path: Path, triton_device: torch.device, triton_operations: MakeOperations
) -> None:
    if triton_device.type == "cpu":
        pytest.skip("Triton's interpreter computes bfloat16 dot products wrongly; this needs a GPU")
    folder = make_tiny_model(tmp_path, dtype="bfloat16").folder
    _, exact = GpuPair(folder, TorchOperations, triton_device).step(STEPS[2])
    ours, pytorch = GpuPair(folder, triton_operations, triton_device, torch.bfloat16).step(STEPS[2])
    assert 0 < (ours - exact).abs().mean() < (pytorch - exact).abs().mean()
