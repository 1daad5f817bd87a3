"""Rounding to nearest: a quantised view of tensors that are read block by block."""

from collections.abc import Iterator

from torch import Tensor

from common.errors import CheckpointError
from common.manifest import Quantization
from shard_worker.checkpoint.source import Tensors
from shard_worker.checkpoint.weight_shapes import matrix_format
from shard_worker.quantization.formats import quantize_int4, quantize_int8

PARTS = ("q", "scale", "zero")


class NearestTensors:
    """`source`, quantised: NAME.q, NAME.scale and NAME.zero are made as they are asked for, and nothing is kept."""

    def __init__(self, source: Tensors, quantization: Quantization) -> None:
        self._source = source
        self._quantization = quantization

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield blocks of rows. Raises CheckpointError, naming the matrix, when a weight of it is not finite."""
        matrix, _, part = name.rpartition(".")
        if part not in PARTS:
            yield from self._source.blocks(name)
            return
        for block in self._source.blocks(matrix):
            try:
                yield self._quantized(matrix, block)[PARTS.index(part)]
            except CheckpointError as error:
                raise CheckpointError(f"{matrix}: {error}") from error

    def _quantized(self, matrix: str, block: Tensor) -> tuple[Tensor, ...]:
        stored = matrix_format(matrix, self._quantization)
        if stored.mode == "int8":
            return quantize_int8(block)
        assert stored.group_size is not None, matrix
        return quantize_int4(block, stored.group_size)
