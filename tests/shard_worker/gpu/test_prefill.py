"""A quantised model computes the same when its modules multiply by the kernels; a float one is left alone."""

import random
from pathlib import Path

import pytest
import torch

from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.gpu.prefill import KernelLinear, use_kernels
from shard_worker.model.llama import Layer
from shard_worker.quantization.quantize import QuantizeOptions, quantize
from tests.support.gpu_pair import GpuPair
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model
from tests.support.torch_operations import TorchOperations

CPU = torch.device("cpu")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_long_steps(tmp_path: Path, mode: str) -> None:
    source = make_tiny_model(tmp_path, TinyShape(query_heads=4, kv_heads=2, head_dim=32, intermediate_size=80)).folder
    with OutputFolder(tmp_path / mode) as output:
        quantize(source, output, mode, QuantizeOptions(mode=mode), lambda what, done, total: None)  # type: ignore[arg-type]
    pair = GpuPair(tmp_path / mode, TorchOperations, CPU)
    rows = [(70, random.Random(0).randrange(20)), (3, 40)]
    inputs = pair.long_inputs(rows)
    with torch.inference_mode():
        before = pair.model(inputs, pair.caches[0])
        use_kernels(pair.model, pair.operations)
        after = pair.model(inputs, pair.caches[0])
    first = pair.model.layers[0]
    assert isinstance(first, Layer) and isinstance(first.dense.down, KernelLinear)
    assert first.attention.qkv.rows(torch.tensor([2, 0]), torch.float32).shape == (2, first.attention.qkv.in_features)
    torch.testing.assert_close(after, before, atol=2e-5, rtol=2e-5)
    # The decoder's own matrices are still the stored ones.
    ours, expected = pair.step([(1, 12), (4, 3)])
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


def test_float_layers_stay(tiny_model: TinyModel) -> None:
    pair = GpuPair(tiny_model.folder, TorchOperations, CPU)
    layers = [module for module in pair.model.modules() if isinstance(module, Layer)]
    before = [layer.attention.qkv for layer in layers]
    use_kernels(pair.model, pair.operations)
    assert [layer.attention.qkv for layer in layers] == before
