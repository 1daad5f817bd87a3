"""One model with two caches: one that the model's own modules fill, one that the GPU decoder fills."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from shard_worker.batch import build_inputs
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.gpu.operations import Operations
from shard_worker.gpu.replay import Recorder
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama, StepInputs
from shard_worker.model.weights import load_model
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition, partition
from shard_worker.plan import Bounds, Rows, read_rows
from tests.support.plans import PlanRow, make_plan

BLOCK_SIZE, NUM_BLOCKS = 16, 64
MakeOperations = Callable[[Llama, KVCache, Partition], Operations]


class GpuPair:
    """Runs rows both ways, on a past that the model's own modules computed."""

    def __init__(
        self,
        folder: Path,
        make_operations: MakeOperations,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        record: bool = True,
    ) -> None:
        with CheckpointReader(folder) as reader:
            arch, quantization = reader.manifest.architecture, reader.manifest.quantization
            self.partition = part = partition(arch, 0, 1, quantization.group_size or 1)
            path = ATTENTION_PATHS["fast"]
            group = RankGroup(0, 1, 1)
            self.model: Llama = load_model(reader, arch, part, group, path, dtype, device, quantization)
        self.device, self.dtype, self.layers = device, dtype, arch.layers
        shape = (arch.layers, NUM_BLOCKS, BLOCK_SIZE, part.kv_heads.size, arch.head_dim, dtype, device)
        self.caches = KVCache(*shape), KVCache(*shape)
        self.operations = make_operations(self.model, self.caches[1], part)
        self.decoder = GraphDecoder(self.model, self.caches[1], self.operations, Recorder(device, record))
        self._bounds = Bounds(NUM_BLOCKS, BLOCK_SIZE, arch.vocabulary_size, arch.context_length, 1024)

    def step(self, rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Run rows of (length, base length), all sampled; return the decoder's hidden states and the model's."""
        checked = self._planned(rows)
        inputs = build_inputs(checked, BLOCK_SIZE, self.dtype, self.device)
        with torch.inference_mode():
            expected: Tensor = self.model(inputs, self.caches[0])
        return self.decoder(self._staged(checked)), expected

    def prepared(self, rows: list[tuple[int, int]]) -> StepInputs:
        """Return what the decoder gets for these rows, whose past is computed."""
        return self._staged(self._planned(rows))

    def long_inputs(self, rows: list[tuple[int, int]]) -> StepInputs:
        """Return what the model's own forward gets for these rows, whose past is computed."""
        return build_inputs(self._planned(rows), BLOCK_SIZE, self.dtype, self.device)

    def cache_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's cache as the decoder left it, and as the model did."""
        return [(self.caches[1].layer(i), self.caches[0].layer(i)) for i in range(self.layers)]

    def _staged(self, rows: Rows) -> StepInputs:
        return build_inputs(rows, BLOCK_SIZE, self.dtype, GraphDecoder.input_device, with_buckets=False)

    def _planned(self, rows: list[tuple[int, int]]) -> Rows:
        blocks = random.Random(1).sample(range(NUM_BLOCKS), NUM_BLOCKS)
        planned = []
        for sequence, (length, base) in enumerate(rows):
            ids = random.Random(sequence).choices(range(self._bounds.vocabulary_size), k=base + length)
            table = [blocks.pop() for _ in range(-(-(base + length) // BLOCK_SIZE))]
            planned.append(PlanRow(sequence, base, ids[base:], table, sampled=length))
            if base:
                self._past(PlanRow(sequence, 0, ids[:base], table))
        return self._rows(planned)

    def _past(self, row: PlanRow) -> None:
        with torch.inference_mode():
            self.model(build_inputs(self._rows([row]), BLOCK_SIZE, self.dtype, self.device), self.caches[0])
        for ours, theirs in self.cache_pairs():
            ours.copy_(theirs)

    def _rows(self, rows: list[PlanRow]) -> Rows:
        return read_rows(make_plan(rows), self._bounds)
