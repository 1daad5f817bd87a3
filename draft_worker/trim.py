"""A checkpoint in, a draft's checkpoint out, whose head has rows for the frequent tokens alone.

The head is read for every token that is drafted, and on a small model is a good part of all weights (FR-Spec, Zhao et
al. 2025, arXiv 2502.14856). What it leaves out is never proposed, so it costs acceptance and changes no token. The
embedding stays whole: any token may be read.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from common.errors import CheckpointError
from common.manifest import Architecture, Manifest
from draft_worker.frequent_tokens import frequent_ids
from shard_worker.checkpoint.from_checkpoint import open_stored
from shard_worker.checkpoint.layout import HEAD_IDS
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import Progress
from shard_worker.checkpoint.source import Tensors
from shard_worker.checkpoint.writer import write_checkpoint

HEAD = "head.weight"


def trim(folder: Path, output: OutputFolder, name: str, count: int, text: str | None, progress: Progress) -> Manifest:
    """Make the checkpoint `name` in `output` of that in `folder`, with `count` rows in its head; return its manifest.

    Matrices stay as they are stored, quantised or not. `text` is like what will be drafted (`frequent_ids`). Raises
    CheckpointError when the model cannot be trimmed so; `output` is then left as it was.
    """
    model, reader = open_stored(folder, "trimmed")
    with reader:
        arch = model.architecture
        if arch.head_size is not None:
            raise CheckpointError(f"{folder} is trimmed already; begin with the whole model")
        ids_N = frequent_ids(model, text, count)
        trimmed = Architecture.model_validate(arch.model_dump() | {"tied_embeddings": False, "head_size": count})
        tensors = _TrimmedTensors(model.tensors, ids_N, "embedding.weight" if arch.tied_embeddings else HEAD)
        return write_checkpoint(
            replace(model, architecture=trimmed, tensors=tensors),
            output,
            name,
            reader.manifest.dtype,
            progress,
            stage="trimming",
        )


class _TrimmedTensors:
    """`source` with another head: rows ids_N, rising, of the matrix `whole`, in each of the tensors it is stored as."""

    def __init__(self, source: Tensors, ids_N: Tensor, whole: str) -> None:
        self._source, self._ids_N, self._whole = source, ids_N, whole

    def blocks(self, name: str) -> Iterator[Tensor]:
        """Yield blocks of rows."""
        if name == HEAD_IDS:
            yield self._ids_N.int()
        elif name.startswith(HEAD):
            start = 0
            for block in self._source.blocks(self._whole + name.removeprefix(HEAD)):
                places = self._ids_N[(self._ids_N >= start) & (self._ids_N < start + len(block))] - start
                if len(places):  # a block without a row is none
                    yield block[places]
                start += len(block)
        else:
            yield from self._source.blocks(name)
