"""The packed int4 matrices of a hub folder, as tensors of a quantised checkpoint of ours."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.huggingface_int4 import Packing
from shard_worker.checkpoint.huggingface_names import Place
from shard_worker.checkpoint.packed_matrix import PARTS, PackedMatrix
from shard_worker.checkpoint.safetensors_header import StoredTensor
from shard_worker.checkpoint.weight_shapes import matrix_format
from shard_worker.quantization.nearest import PARTS as OUR_PARTS


class PackedTensors:
    """The packed matrices among `tensors`, where each takes the place of its parts: NAME.weight, bfloat16 by name.

    Raises CheckpointError for a matrix that cannot be read.
    """

    def __init__(
        self, folder: Path, tensors: dict[str, StoredTensor], packing: Packing, architecture: Architecture
    ) -> None:
        self._folder, self._stored = folder, tensors
        self._quantization = packing.quantization(architecture)
        self._matrices: dict[str, PackedMatrix] = {}
        suffix = f".{PARTS[packing.method].q}"
        for name in sorted(name.removesuffix(suffix) for name in tensors if name.endswith(suffix)):
            try:
                matrix = self._matrices[f"{name}.weight"] = PackedMatrix(name, tensors, packing)
            except CheckpointError as error:
                raise CheckpointError(f"{folder}: {error}") from error
            file = tensors[name + suffix].file
            for part in matrix.part_names:
                tensors.pop(f"{name}.{part}", None)
            tensors[f"{name}.weight"] = StoredTensor(file, matrix.shape, torch.bfloat16)

    def check(self, places: Mapping[str, Place]) -> None:
        """Raise CheckpointError where other matrices are packed than those that our int4 checkpoints quantise."""
        for name, place in places.items():
            if place.stored not in self._stored or len(self._stored[place.stored].shape) != 2:
                continue
            ours, theirs = matrix_format(name, self._quantization).mode == "int4", place.stored in self._matrices
            if ours != theirs:
                raise CheckpointError(
                    f"{self._folder}: {place.stored} is {'' if theirs else 'not '}quantised; "
                    "our int4 checkpoints quantise all matrices of all layers, and no other"
                )

    def idle_biases(self, names: set[str]) -> set[str]:
        """Return which of these tensors are biases that are all zero: AutoGPTQ adds one to each matrix without any."""
        return {name for name in names if self._is_idle_bias(name)}

    def matrix_of(self, name: str) -> str | None:
        """Return the matrix that NAME.q, NAME.scale or NAME.zero is of, None for any other tensor."""
        matrix, _, part = name.rpartition(".")
        return matrix if part in OUR_PARTS else None

    def blocks(self, name: str, place: Place) -> Iterator[Tensor]:
        """Yield blocks of rows of NAME.q, NAME.scale or NAME.zero, whose matrix lies in `place`."""
        matrix, _, part = name.rpartition(".")
        group_size = matrix_format(matrix, self._quantization).group_size
        assert group_size is not None, name
        yield from self._matrices[place.stored].blocks(part, place.start, place.stop, group_size)

    def _is_idle_bias(self, name: str) -> bool:
        stem = name.removesuffix(".bias")
        if stem == name or f"{stem}.weight" not in self._matrices:
            return False
        try:
            with safe_open(self._stored[name].file, framework="pt") as file:
                return not file.get_tensor(name).any().item()
        except SafetensorError as error:
            raise CheckpointError(f"{self._stored[name].file}: {error}") from error
