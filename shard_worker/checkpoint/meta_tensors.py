"""The weights of Meta's shards, or of one file in gpt-fast's layout, as the tensors of a checkpoint."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.layout import TensorSpec, expected_tensors
from shard_worker.checkpoint.meta_names import EMBEDDING, FUSED, HARMLESS_TENSORS, HEAD, MetaPlace, meta_place
from shard_worker.checkpoint.rope_layout import half_split, head_blocks
from shard_worker.checkpoint.safetensors_header import StoredTensor
from shard_worker.checkpoint.source import row_blocks

Shard = dict[str, StoredTensor]


class MetaTensors:
    """Joins what was cut over ranks, and brings rotated rows into our order, block by block.

    `origin` names the weights in errors. Raises CheckpointError naming tensors that are missing, left over, or of a
    shape that does not join to what the architecture asks for.
    """

    def __init__(self, origin: Path, shards: Sequence[Shard], architecture: Architecture) -> None:
        self._origin, self._shards, self._architecture = origin, shards, architecture
        self._check_names()
        self._specs = expected_tensors(architecture, "float32")
        fused = f"layers.0.{FUSED}.weight" in shards[0]
        self._places = {name: self._place(name, fused) for name in self._specs}
        stored_names = {place.stored for place in self._places.values()}
        if missing := stored_names - shards[0].keys():
            raise CheckpointError(f"{origin}: missing tensors: {', '.join(sorted(missing))}")
        self._starts = self._fused_starts()
        for name, place in self._places.items():
            self._check_shape(name, place)
        leftover = {name for name in shards[0] if not HARMLESS_TENSORS.fullmatch(name)} - stored_names
        if architecture.tied_embeddings and HEAD in leftover:
            if not self.head_is_embedding():
                raise CheckpointError(f"{origin}: the config ties {HEAD} to {EMBEDDING}, but they differ")
            leftover.remove(HEAD)
        if leftover:
            raise CheckpointError(f"{origin}: leftover tensors: {', '.join(sorted(leftover))}")

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield blocks of rows in the stored type."""
        spec, place, head_dim = self._specs[name], self._places[name], self._architecture.head_dim
        first = self._starts.get(name, 0)
        for beside in self._joined(place, spec):
            rows, *others = beside[0].shape
            rows = spec.shape[0] if place.fused else rows
            width = sum(part.shape[-1] for part in beside) if others else 1
            cuts = head_blocks(rows, width, head_dim) if place.rotated else row_blocks(rows, width)
            for cut in cuts:
                there = slice(first + cut.start, first + cut.stop)
                read = [self._read(part, place.stored, there) for part in beside]
                if place.cut == "copied" and any(not torch.equal(part, read[0]) for part in read[1:]):
                    raise CheckpointError(f"{self._origin}: the shards' {place.stored} differ")
                block = torch.cat(read, dim=1) if len(read) > 1 and place.cut != "copied" else read[0]
                yield half_split(block, head_dim) if place.rotated else block

    def head_is_embedding(self) -> bool:
        """Whether output.weight is there and has the embedding's numbers, or is missing: then they are one."""
        if HEAD not in self._shards[0]:
            return True
        parts = [(shard[HEAD], shard[EMBEDDING]) for shard in self._shards]
        if any(head.shape != embedding.shape for head, embedding in parts):
            return False  # cut along different axes (Llama 1 and 2), where nothing was tied
        return all(
            torch.equal(self._read(head, HEAD, cut), self._read(embedding, EMBEDDING, cut))
            for head, embedding in parts
            for cut in row_blocks(head.shape[0], head.shape[-1])
        )

    def _check_names(self) -> None:
        """Raise CheckpointError unless every shard has the same names, and tensors enough for so many layers."""
        for number, shard in enumerate(self._shards[1:], start=1):
            if odd := shard.keys() ^ self._shards[0].keys():
                raise CheckpointError(
                    f"{self._origin}: shards 0 and {number} do not both have {', '.join(sorted(odd))}"
                )
        if self._architecture.layers > len(self._shards[0]):
            raise CheckpointError(f"{self._origin}: missing tensors: there are fewer than layers")

    def _place(self, name: str, fused: bool) -> MetaPlace:
        if (place := meta_place(name, fused)) is None:
            raise CheckpointError(f"{self._origin}: Meta's layout of the weights has no place for {name}")
        return place

    def _fused_starts(self) -> dict[str, int]:
        """Return the row of its fused matrix at which each of our tensors begins."""
        starts: dict[str, int] = {}
        ends: dict[str, int] = {}
        for name, place in self._places.items():
            if place.fused:
                starts[name] = ends.get(place.stored, 0)
                ends[place.stored] = starts[name] + self._specs[name].shape[0]
        return starts

    def _joined(self, place: MetaPlace, spec: TensorSpec) -> list[list[StoredTensor]]:
        """Return the shards' parts: the outer list lies below one another, inner ones beside one another."""
        parts = [shard[place.stored] for shard in self._shards]
        below = place.cut == "rows" or (place.cut == "either" and parts[0].shape[-1] == spec.shape[-1])
        return [[part] for part in parts] if below else [parts]

    def _check_shape(self, name: str, place: MetaPlace) -> None:
        parts, spec = [shard[place.stored] for shard in self._shards], self._specs[name]
        wanted = spec.shape
        if place.fused:
            a = self._architecture
            wanted = ((a.query_heads + 2 * a.kv_heads) * a.head_dim, a.hidden_size)
        if not (dtype := parts[0].dtype).is_floating_point:
            raise CheckpointError(f"{self._origin}: {place.stored} has type {dtype}; only float weights are converted")
        found = parts[0].shape
        same = all(part.shape == found and part.dtype == dtype for part in parts)
        if same and len(found) == 2 and place.cut != "copied":
            groups = self._joined(place, spec)
            found = (sum(group[0].shape[0] for group in groups), sum(part.shape[1] for part in groups[0]))
        whole_heads = not place.rotated or parts[0].shape[0] % self._architecture.head_dim == 0
        if not same or found != wanted or not whole_heads:
            shapes = " and ".join(sorted({str(list(part.shape)) for part in parts}))
            raise CheckpointError(
                f"{self._origin}: {place.stored} is {shapes} in {len(parts)} shards, which do not make {list(wanted)}"
            )

    def _read(self, stored: StoredTensor, name: str, rows: slice) -> torch.Tensor:
        try:
            with safe_open(stored.file, framework="pt") as file:
                block: torch.Tensor = file.get_slice(name)[rows]
                return block
        except SafetensorError as error:
            raise CheckpointError(f"{self._origin}: {error}") from error
