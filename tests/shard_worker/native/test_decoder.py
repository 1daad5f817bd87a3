"""A native step is PyTorch's: the same hidden states and the same cache, whatever the rows and the model's shape."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shard_worker.batch import build_inputs
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.model.weights import load_model
from shard_worker.native.decoder import MAX_TOKENS, NativeDecoder
from shard_worker.native.library import Runner
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.plan import Bounds, read_rows
from tests.support.plans import PlanRow, make_plan
from tests.support.tiny_model import TinyShape, make_tiny_model

BLOCK_SIZE, NUM_BLOCKS = 16, 64
SHAPES = {
    "6 heads, 3 KV": TinyShape(),
    "8 heads, 2 KV": TinyShape(query_heads=8, kv_heads=2, llama3_rope=True, tied=True),
    "4 heads, 1 KV": TinyShape(query_heads=4, kv_heads=1, head_dim=20, intermediate_size=51),
    "64 wide": TinyShape(query_heads=5, kv_heads=5, head_dim=64, intermediate_size=96),
}
# Lengths of rows and of what lies before them: decode, verify and prefill side by side, stretches of 64 crossed.
STEPS = [
    [(1, 0)],
    [(1, 0), (1, 15), (1, 16), (1, 63), (1, 64), (1, 140)],
    [(5, 3), (1, 200), (9, 0), (2, 62), (1, 1)],
    [(MAX_TOKENS, 100)],
]


class Pair:
    """One model with two caches: one that PyTorch fills, one that native code fills."""

    def __init__(self, folder: Path, runner: Runner, dtype: torch.dtype = torch.float32) -> None:
        with CheckpointReader(folder) as reader:
            arch = reader.manifest.architecture
            part = partition(arch, 0, 1)
            device, fast = torch.device("cpu"), ATTENTION_PATHS["fast"]
            self.model: Llama = load_model(reader, arch, part, RankGroup(0, 1, 1), fast, dtype, device)

        def cache() -> KVCache:
            return KVCache(arch.layers, NUM_BLOCKS, BLOCK_SIZE, part.kv_heads.size, arch.head_dim, dtype, device)

        self.caches = cache(), cache()
        self.native = NativeDecoder(self.model, self.caches[1], part, runner)
        self.dtype, self.layers = dtype, arch.layers
        self.bounds = Bounds(NUM_BLOCKS, BLOCK_SIZE, arch.vocabulary_size, arch.context_length, 1024)

    def step(self, rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Run rows of (length, base length) both ways, on a past that PyTorch computed; return both results."""
        blocks = random.Random(1).sample(range(NUM_BLOCKS), NUM_BLOCKS)
        planned = []
        for sequence, (length, base) in enumerate(rows):
            ids = random.Random(sequence).choices(range(self.bounds.vocabulary_size), k=base + length)
            table = [blocks.pop() for _ in range(-(-(base + length) // BLOCK_SIZE))]
            planned.append(PlanRow(sequence, base, ids[base:], table, sampled=length))
            if base:
                self._past(PlanRow(sequence, 0, ids[:base], table))
        checked = read_rows(make_plan(planned), self.bounds)
        inputs = build_inputs(checked, BLOCK_SIZE, self.dtype, torch.device("cpu"))
        with torch.inference_mode():
            expected: Tensor = self.model(inputs, self.caches[0])
            return self.native(replace(inputs, buckets=[])), expected

    def _past(self, row: PlanRow) -> None:
        inputs = build_inputs(read_rows(make_plan([row]), self.bounds), BLOCK_SIZE, self.dtype, torch.device("cpu"))
        with torch.inference_mode():
            self.model(inputs, self.caches[0])
        for layer in range(self.layers):
            self.caches[1].layer(layer).copy_(self.caches[0].layer(layer))


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_steps_are_pytorch_s(runner: Runner, tmp_path: Path, shape: str) -> None:
    pair = Pair(make_tiny_model(tmp_path, SHAPES[shape]).folder, runner)
    for rows in STEPS:
        native, expected = pair.step(rows)
        torch.testing.assert_close(native, expected, atol=1e-5, rtol=1e-5)
        for layer in range(pair.layers):
            ours, theirs = pair.caches[1].layer(layer), pair.caches[0].layer(layer)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        logits = pair.native.logits(native)
        torch.testing.assert_close(logits, pair.model.logits(expected), atol=2e-5, rtol=2e-5)


def test_the_embedded_model_s_steps_are_pytorch_s(embedded_model: Path) -> None:
    pair = Pair(embedded_model, Runner(1))
    for rows in STEPS[1:3]:
        native, expected = pair.step(rows)
        scale = expected.abs().max()
        torch.testing.assert_close(native / scale, expected / scale, atol=1e-5, rtol=0)
        assert torch.equal(pair.native.logits(native).argmax(dim=1), pair.model.logits(expected).argmax(dim=1))


def test_bfloat16_is_closer_to_exact_than_pytorch(runner: Runner, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, dtype="bfloat16").folder
    exact, rounded = Pair(folder, runner), Pair(folder, runner, torch.bfloat16)
    _, reference = exact.step(STEPS[1])
    native, pytorch = rounded.step(STEPS[1])
    assert 0 < (native - reference).abs().mean() < (pytorch - reference).abs().mean()


def test_a_row_does_not_depend_on_the_others_or_on_threads(runner: Runner, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path).folder
    together, _ = Pair(folder, runner).step([(1, 70), (6, 10), (1, 5)])
    alone, _ = Pair(folder, Runner(1, runner.kernels)).step([(1, 70)])
    assert torch.equal(together[0], alone[0])
