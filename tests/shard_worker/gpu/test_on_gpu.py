"""On a real GPU: the engine's answers are the CPU's, graphs change no bit, and no step waits but for its records."""

from pathlib import Path

import pytest
import torch

from shard_worker.gpu.decoder import BUCKETS, GraphDecoder
from shard_worker.gpu.selection import gpu_decoder
from shard_worker.gpu.tiles import Tile, fastest
from shard_worker.gpu_bench.correctness import check_all
from tests.support.gpu_pair import GpuPair, MakeOperations
from tests.support.tiny_model import TinyModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
GPU = torch.device("cuda")


def test_every_check_of_the_bench_holds(embedded_model: Path) -> None:
    wrong = [check for check in check_all(GPU, embedded_model) if not check.holds]
    assert wrong == []


def test_graphs_change_no_bit(tiny_model: TinyModel, triton_operations: MakeOperations) -> None:
    recorded = GpuPair(tiny_model.folder, triton_operations, GPU)
    recorded.decoder.record_all()
    plain = GpuPair(tiny_model.folder, triton_operations, GPU, record=False)
    for size in (*BUCKETS, 3, 33):
        rows = [(1, 3 * n) for n in range(min(size, 12))]
        rows[0] = (size - len(rows) + 1, 5)
        assert torch.equal(recorded.step(rows)[0], plain.step(rows)[0])


def test_a_step_does_not_wait_for_the_device(tiny_model: TinyModel, triton_operations: MakeOperations) -> None:
    pair = GpuPair(tiny_model.folder, triton_operations, GPU)
    pair.decoder.record_all()
    inputs = pair.prepared([(1, 5)])
    pair.decoder.logits(pair.decoder(inputs))
    torch.cuda.set_sync_debug_mode("error")
    try:
        pair.decoder.logits(pair.decoder(inputs))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_selection_tunes_and_records(tiny_model: TinyModel, triton_operations: MakeOperations) -> None:
    pair = GpuPair(tiny_model.folder, triton_operations, GPU, torch.bfloat16)
    made = gpu_decoder("on", "fast", pair.model, pair.caches[1], pair.partition)
    assert made is not None and isinstance(made.decoder, GraphDecoder)


def test_a_tile_that_does_not_fit_is_passed_over() -> None:
    def run(tile: Tile) -> None:
        if tile.block_n == 4:
            raise RuntimeError("out of resource: shared memory")
        torch.ones(1 << (20 + tile.block_n), device=GPU).sum()

    tiles = [Tile(4, 32, 4), Tile(5, 32, 4), Tile(0, 32, 4)]
    assert fastest(tiles, run, (RuntimeError,)) == tiles[2]
