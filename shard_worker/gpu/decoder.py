"""A rank's decoder on a GPU: steps of few tokens, recorded as one graph for each of a few sizes.

Shapes: N tokens of a step, B >= N the bucket's size, P reported tokens, M model width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shard_worker.gpu.matrices import Matrix, head_matrix, matrix_of
from shard_worker.gpu.operations import Operations, StaticStep
from shard_worker.gpu.replay import Recorder
from shard_worker.gpu.staging import Staging
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Layer, Llama, StepInputs

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
MAX_TOKENS = BUCKETS[-1]

# Rows of the staged integers; a token may be reported twice, as sampled and as scored.
_IDS, _POSITIONS, _SLOTS, _TABLE_STARTS, _REPORTED = range(5)
_ROWS = _REPORTED + 2
_PADDING = -1


@dataclass(frozen=True)
class LayerMatrices:
    """A layer, and its matrices as the kernels read them."""

    layer: Layer
    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix

    @classmethod
    def of(cls, layer: Layer) -> "LayerMatrices":
        """Return the matrices of `layer`. Raises SettingsError for a form that no kernel knows."""
        modules = (
            layer.attention.qkv, layer.attention.output, layer.dense.gate_up, layer.dense.down
        )  # fmt: skip
        return cls(layer, *map(matrix_of, modules))


class GraphDecoder:
    """Runs a model's steps of up to MAX_TOKENS tokens, of whatever rows, on its own weights and cache.

    Hidden state and sums are float32; inputs of products are rounded to the model's type, as in PyTorch.
    """

    # Inputs are staged here, in one copy.
    input_device = torch.device("cpu")

    def __init__(self, model: Llama, cache: KVCache, operations: Operations, recorder: Recorder) -> None:
        """Raises SettingsError when a matrix has a form that no kernel knows."""
        self._model, self._cache, self._operations, self._recorder = model, cache, operations, recorder
        self.layers = [LayerMatrices.of(layer) for layer in model.layers if isinstance(layer, Layer)]
        self.head = head_matrix(model)
        device = model.rope.cos.device
        context_length = model.rope.cos.shape[0]
        most_blocks = MAX_TOKENS * -(-context_length // cache.block_size)
        self._integers = Staging((_ROWS, MAX_TOKENS), torch.int64, device)
        self._tables = Staging((most_blocks,), torch.int32, device)
        self._hidden_NM = torch.zeros(MAX_TOKENS, model.norm.weight.numel(), device=device)
        self._recordings: dict[int, Callable[[], None]] = {}

    def takes(self, num_tokens: int) -> bool:
        """Return whether a step of so many tokens is run here."""
        return num_tokens <= MAX_TOKENS

    @torch.inference_mode()
    def record_all(self) -> None:
        """Record every bucket, so that no step waits for a compiler. All ranks of a group must do so together."""
        self._stage_padding()
        for bucket in BUCKETS:
            self._recording(bucket)
            self.logits(self._hidden_NM[:bucket])  # compiles the head's kernel

    @torch.inference_mode()
    def __call__(self, step: StepInputs) -> Tensor:
        """Run a step, whose inputs lie on the CPU; return its reported tokens' hidden state, float32[P, M], a copy."""
        num_tokens, num_reported = len(step.ids_N), len(step.reported_P)
        assert self.takes(num_tokens) and step.ids_N.device.type == "cpu"
        bucket = bucket_of(num_tokens)
        host = self._integers.writable()
        # A padding token writes to no slot and attends to nothing.
        host[_IDS, num_tokens:bucket] = 0
        host[_TABLE_STARTS, num_tokens:bucket] = 0
        host[_POSITIONS : _SLOTS + 1, num_tokens:bucket] = _PADDING
        columns = (step.ids_N, step.positions_N, step.slots_N, step.table_starts_N)
        for row, column in zip((_IDS, _POSITIONS, _SLOTS, _TABLE_STARTS), columns, strict=True):
            host[row, :num_tokens] = column
        host[_REPORTED:].view(-1)[:num_reported] = step.reported_P
        self._tables.writable()[: len(step.block_tables)] = step.block_tables
        self._integers.send()
        self._tables.send(len(step.block_tables))
        self._recording(bucket)()
        return self._hidden_NM.index_select(0, self._integers.device[_REPORTED:].view(-1)[:num_reported])

    @torch.inference_mode()
    def logits(self, hidden_PM: Tensor) -> Tensor:
        """Return float32[P, V]: the logits over this rank's slice of the vocabulary."""
        return self._operations.linear(hidden_PM, self.head)

    def _recording(self, bucket: int) -> Callable[[], None]:
        if bucket not in self._recordings:
            self._recordings[bucket] = self._recorder.record(lambda: self._run(bucket))
        return self._recordings[bucket]

    def _stage_padding(self) -> None:
        host = self._integers.writable()
        host.zero_()
        host[_POSITIONS : _SLOTS + 1] = _PADDING
        self._integers.send()

    def _run(self, bucket: int) -> None:
        """Run the staged step of `bucket` tokens: the hidden states end up in `_hidden_NM`."""
        model, operations = self._model, self._operations
        rows = self._integers.device[:, :bucket]
        step = StaticStep(rows[_IDS], rows[_POSITIONS], rows[_SLOTS], rows[_TABLE_STARTS], self._tables.device)
        x_NM = model.embed(step.ids_N).float()
        for index, matrices in enumerate(self.layers):
            layer, cache = matrices.layer, self._cache.layer(index)
            qkv_NO = operations.linear(x_NM, matrices.qkv, layer.attention_norm)
            q_NHD = operations.rotate_and_store(qkv_NO, cache, step)
            x_NM = self._added(x_NM, operations.attend(q_NHD, cache, step), matrices.output)
            wide_NF = operations.gated(x_NM, matrices.gate_up, layer.feed_forward_norm)
            x_NM = self._added(x_NM, wide_NF, matrices.down)
        self._hidden_NM[:bucket].copy_(model.norm(x_NM))

    def _added(self, x_NM: Tensor, part_NK: Tensor, matrix: Matrix) -> Tensor:
        """Return x plus all ranks' products with their part of the matrix."""
        if self._model.group.world_size == 1:
            return self._operations.linear(part_NK, matrix, residual_NO=x_NM)
        return x_NM + self._model.group.all_reduce(self._operations.linear(part_NK, matrix))


def bucket_of(num_rows: int) -> int:
    """Return the smallest bucket that holds so many rows."""
    return next(bucket for bucket in BUCKETS if bucket >= num_rows)
