"""The GPU decoder's own logic, with kernels in plain PyTorch: buckets, padding, staging, and the order of a step."""

from pathlib import Path

import pytest
import torch

from common.errors import SettingsError
from shard_worker.gpu.decoder import BUCKETS, MAX_TOKENS, bucket_of
from shard_worker.gpu.replay import Recorder
from shard_worker.gpu.selection import gpu_decoder
from tests.support.gpu_pair import GpuPair
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model
from tests.support.torch_operations import TorchOperations

CPU = torch.device("cpu")
# Lengths of rows and of what lies before them: decode, verify and prefill side by side, buckets full and padded.
STEPS = [
    [(1, 0)],
    [(1, 0), (1, 15), (1, 16)],
    [(5, 3), (1, 200), (9, 0), (2, 62), (1, 1)],
    [(MAX_TOKENS, 100)],
]


@pytest.mark.parametrize(
    "shape", [TinyShape(), TinyShape(query_heads=4, kv_heads=1, head_dim=20, llama3_rope=True, tied=True)], ids=str
)
def test_steps_are_the_model_s(tmp_path: Path, shape: TinyShape) -> None:
    pair = GpuPair(make_tiny_model(tmp_path, shape).folder, TorchOperations, CPU)
    for rows in STEPS:
        ours, expected = pair.step(rows)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
        for cache, expected_cache in pair.cache_pairs():
            torch.testing.assert_close(cache, expected_cache, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pair.decoder.logits(ours), pair.model.logits(expected), atol=2e-5, rtol=2e-5)


def test_results_outlive_the_next_step(tiny_model: TinyModel) -> None:
    pair = GpuPair(tiny_model.folder, TorchOperations, CPU)
    first, _ = pair.step([(1, 40)])
    kept = first.clone()
    pair.step([(3, 7)])
    assert torch.equal(first, kept)


def test_recording_touches_no_slot(tiny_model: TinyModel) -> None:
    pair = GpuPair(tiny_model.folder, TorchOperations, CPU)
    pair.decoder.record_all()
    assert all(not cache.any() for cache, _ in pair.cache_pairs())
    ours, expected = pair.step(STEPS[2])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_buckets() -> None:
    assert [bucket_of(n) for n in (1, 2, 3, 8, 9, 64)] == [1, 2, 4, 8, 16, 64]
    assert list(BUCKETS) == sorted(BUCKETS)


def test_without_a_gpu_pytorch_computes(tiny_model: TinyModel) -> None:
    pair = GpuPair(tiny_model.folder, TorchOperations, CPU)
    arguments = ("fast", pair.model, pair.caches[1], pair.partition)
    assert gpu_decoder("auto", *arguments) is None
    assert gpu_decoder("off", *arguments) is None
    with pytest.raises(SettingsError, match="GPU kernels cannot be used: the device is no GPU"):
        gpu_decoder("on", *arguments)
    assert not Recorder(CPU).enabled
