"""A folder in the Hugging Face hub's layout as a source of a checkpoint. Weights are safetensors, or made so first."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.errors import CheckpointError
from common.manifest import UNQUANTIZED, Architecture
from shard_worker.checkpoint.huggingface_config import read_config
from shard_worker.checkpoint.huggingface_int4 import Packing, read_packing
from shard_worker.checkpoint.huggingface_names import HEAD, HubNames
from shard_worker.checkpoint.huggingface_tokenizer import (
    read_chat_template,
    read_end_of_text_ids,
    read_tokenizer,
)
from shard_worker.checkpoint.huggingface_weights import stored_tensors
from shard_worker.checkpoint.layout import TensorSpec, expected_tensors
from shard_worker.checkpoint.packed_tensors import PackedTensors
from shard_worker.checkpoint.source import ForeignModel, row_blocks
from shard_worker.checkpoint.torch_file import Unpickle

log = logging.getLogger(__name__)
# Buffers that old versions of transformers saved: they repeat what the config says.
HARMLESS_TENSORS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def open_huggingface(folder: Path, source: str | None = None, unpickle: Unpickle | None = None) -> ForeignModel:
    """Return the model in `folder`. `source` defaults to the folder's name.

    Without safetensors, `unpickle` makes some of the legacy pytorch_model.bin; without it, those are refused.
    Raises CheckpointError, naming what is at fault, for a config that is not supported, for missing, leftover
    or misshapen tensors, and for a tokenizer that does not fit.
    """
    config = read_config(folder)
    architecture = config.architecture()
    packing = read_packing(config.quantization_config)
    if architecture.context_length < (config.max_position_embeddings or 0):
        log.warning(
            "%s will serve %d of its %d positions: past those, LongRoPE rotates a text's first tokens anew",
            folder.resolve().name,
            architecture.context_length,
            config.max_position_embeddings,
        )
    return ForeignModel(
        source=source or folder.resolve().name,
        architecture=architecture,
        tokenizer=read_tokenizer(folder, architecture.vocabulary_size),
        chat_template=read_chat_template(folder),
        end_of_text_ids=read_end_of_text_ids(folder, config),
        tensors=_HuggingFaceTensors(folder, architecture, config.names, unpickle, packing),
        quantization=UNQUANTIZED if packing is None else packing.quantization(architecture),
    )


class _HuggingFaceTensors:
    """The weights of a hub folder, read block by block from the mapped files."""

    def __init__(
        self,
        folder: Path,
        architecture: Architecture,
        names: HubNames,
        unpickle: Unpickle | None = None,
        packing: Packing | None = None,
    ) -> None:
        self._tensors = stored_tensors(folder, unpickle)
        self._packed = None if packing is None else PackedTensors(folder, self._tensors, packing, architecture)
        expected = expected_tensors(architecture, "float32")
        self._places = {name: names.place(name, architecture) for name in expected}
        stored_names = {place.stored for place in self._places.values()}
        if missing := stored_names - self._tensors.keys():
            raise CheckpointError(f"{folder}: missing tensors: {', '.join(sorted(missing))}")
        leftover = {name for name in self._tensors if not HARMLESS_TENSORS.fullmatch(name)} - stored_names
        if architecture.tied_embeddings and HEAD in leftover:
            self._check_tied(folder, self._places["embedding.weight"].stored)
            leftover.remove(HEAD)
        if self._packed is not None:
            self._packed.check(self._places)
            leftover -= self._packed.idle_biases(leftover)
        if leftover:
            raise CheckpointError(f"{folder}: leftover tensors: {', '.join(sorted(leftover))}")
        for stored, shape in self._stored_shapes(expected).items():
            if (found := self._tensors[stored].shape) != shape:
                raise CheckpointError(f"{folder}: {stored} is {list(found)}, not {list(shape)}")
            if not (dtype := self._tensors[stored].dtype).is_floating_point:
                raise CheckpointError(f"{folder}: {stored} has type {dtype}; only float weights can be converted")

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield blocks of rows in the stored type, or in float32 where something is added."""
        if self._packed is not None and (matrix := self._packed.matrix_of(name)) is not None:
            yield from self._packed.blocks(name, self._places[matrix])
            return
        place = self._places[name]
        for block in self._blocks(place.stored, place.start, place.stop, place.transposed):
            yield place.as_ours(block)

    def _stored_shapes(self, expected: dict[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
        """Return what shape each stored tensor must have: as many rows as are taken from it."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name, spec in expected.items():
            place = self._places[name]
            first, *rest = reversed(spec.shape) if place.transposed else spec.shape
            shapes[place.stored] = (first + shapes.get(place.stored, (0,))[0], *rest)
        return shapes

    def _blocks(
        self, name: str, start: int = 0, stop: int | None = None, transposed: bool = False
    ) -> Iterator[torch.Tensor]:
        """Yield blocks of the stored rows [start, stop), or of the columns that these rows have."""
        stored = self._tensors[name]
        stop = stored.shape[0] if stop is None else stop
        try:
            with safe_open(stored.file, framework="pt") as file:
                rows = file.get_slice(name)
                if transposed:
                    for block in row_blocks(stored.shape[1], stop - start):
                        yield rows[start:stop, block].T.contiguous()
                    return
                for block in row_blocks(stop - start, stored.shape[-1]):
                    yield rows[start + block.start : start + block.stop]
        except SafetensorError as error:
            raise CheckpointError(f"{stored.file}: {error}") from error

    def _check_tied(self, folder: Path, embedding: str) -> None:
        tensors = (self._tensors[HEAD], self._tensors[embedding])
        if tensors[0].shape != tensors[1].shape or not all(
            torch.equal(head, tied) for head, tied in zip(self._blocks(HEAD), self._blocks(embedding), strict=True)
        ):
            raise CheckpointError(f"{folder}: tie_word_embeddings is true, but {HEAD} is not {embedding}")
