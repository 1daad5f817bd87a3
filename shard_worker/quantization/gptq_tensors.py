"""A model's tensors with its decoder layers quantised by GPTQ."""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from shard_worker.checkpoint.source import Tensors, row_blocks
from shard_worker.quantization.nearest import PARTS


class GptqTensors:
    """The layers' quantised matrices from `folder`, where `solve_layers` left them; all else from `others`."""

    def __init__(self, folder: Path, others: Tensors) -> None:
        self._folder = folder
        self._others = others

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield blocks of rows."""
        if not name.startswith("layers.") or name.rpartition(".")[2] not in PARTS:
            yield from self._others.blocks(name)
            return
        with safe_open(layer_file(self._folder, int(name.split(".")[1])), framework="pt") as file:
            stored = file.get_slice(name)
            rows, *columns = stored.get_shape()
            for block in row_blocks(rows, *columns):
                yield stored[block]


def layer_file(folder: Path, layer: int) -> Path:
    """Return where the matrices of one layer wait for the writer."""
    return folder / f"layer-{layer:05}.safetensors"
