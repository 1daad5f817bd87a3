"""Rounding to nearest: a quantised view of tensors that are read block by block."""

import math
from collections.abc import Iterator

from torch import Tensor

from common.errors import CheckpointError
from common.manifest import Architecture, Quantization
from shard_worker.checkpoint.layout import matrix_format
from shard_worker.checkpoint.source import Tensors
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


def quantization_of(
    architecture: Architecture, mode: str, group_size: int, embedding: str, gptq: bool = False
) -> Quantization:
    """Return what a manifest states about a model of this shape in `mode`, int8 or int4.

    Attention output columns are cut between heads, so their groups must divide a head: the largest size that also
    divides `group_size`. Raises CheckpointError for a head of odd size, which int4 cannot cut.
    """
    method = "gptq" if gptq else "round-to-nearest"
    stated: dict[str, object] = {"mode": mode, "method": method, "embedding": embedding}
    if mode == "int4":
        head_group_size = math.gcd(group_size, architecture.head_dim)
        if head_group_size % 2:
            raise CheckpointError(f"int4 packs two columns into a byte, which heads of {architecture.head_dim} split")
        stated |= {"group_size": group_size, "head_group_size": head_group_size}
    return Quantization.model_validate(stated)
