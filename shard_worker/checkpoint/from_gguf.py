"""A GGUF file as a source of a checkpoint: its tensors and what else it says."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.gguf_architecture import read_architecture, rope_tensors
from shard_worker.checkpoint.gguf_file import GgufFile
from shard_worker.checkpoint.gguf_metadata import GgufMetadata
from shard_worker.checkpoint.gguf_names import gguf_place
from shard_worker.checkpoint.gguf_tokenizer import build_tokenizer
from shard_worker.checkpoint.huggingface_names import Place
from shard_worker.checkpoint.layout import TensorSpec, expected_tensors
from shard_worker.checkpoint.rope_layout import half_split
from shard_worker.checkpoint.source import ForeignModel, row_blocks

READABLE_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
HARMLESS_TOKENIZER_KEYS = ("_token_id", ".chat_templates", ".huggingface.json", ".merges", ".scores")


def open_gguf(path: Path, source: str | None = None) -> ForeignModel:
    """Return the model in the GGUF file `path`. `source` defaults to the file's name.

    Raises CheckpointError, naming what is at fault, for an architecture or rope scaling that is not supported,
    quantisation types other than READABLE_TYPES, tensors or keys that are not known, and for tokenizers that cannot be
    rebuilt.
    """
    file = GgufFile(path)
    metadata = GgufMetadata(file.metadata)
    architecture = read_architecture(metadata, file)
    tokenizer = build_tokenizer(metadata, architecture.vocabulary_size)
    chat_template = metadata.get("tokenizer.chat_template", str)
    # The turn's end and the text's end are what the file itself says; SmolLM2's is <|im_end|> alone, as in
    # its generation_config.json on the hub.
    ends = [metadata.get(f"tokenizer.ggml.{kind}_token_id", int) for kind in ("eos", "eot")]
    metadata.refuse_unknown("tokenizer.", HARMLESS_TOKENIZER_KEYS)
    return ForeignModel(
        source=source or path.name,
        architecture=architecture,
        tokenizer=tokenizer,
        chat_template=chat_template,
        end_of_text_ids=tuple(dict.fromkeys(end for end in ends if end is not None)),
        tensors=_GgufTensors(file, architecture),
    )


class _GgufTensors:
    """The weights of a GGUF file, dequantised block by block."""

    def __init__(self, file: GgufFile, architecture: Architecture) -> None:
        self._file = file
        # Only "llama" rotates neighbours in llama.cpp (`llama_model_rope_type`), all others halves, as we do.
        self._interleaved = ("query", "key") if file.metadata["general.architecture"] == "llama" else ()
        self._head_dim = architecture.head_dim
        expected = expected_tensors(architecture, "float32")
        self._places = {name: gguf_place(name, architecture, file.tensors) for name in expected}
        shapes = _stored_shapes(self._places, expected)
        if missing := shapes.keys() - file.tensors.keys():
            raise CheckpointError(f"GGUF tensors are missing: {', '.join(sorted(missing))}")
        if leftover := file.tensors.keys() - shapes.keys() - rope_tensors(file):
            raise CheckpointError(f"GGUF tensors that are not supported: {', '.join(sorted(leftover))}")
        for stored, shape in shapes.items():
            tensor = file.tensors[stored]
            if tensor.shape != shape:
                raise CheckpointError(f"GGUF tensor {stored} is {tensor.shape}, not {shape}")
            if tensor.type.name not in READABLE_TYPES:
                raise CheckpointError(f"GGUF tensor {stored} has type {tensor.type.name}, which is not supported")

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield float32 blocks of rows."""
        place = self._places[name]
        tensor = self._file.tensors[place.stored]
        packed = self._file.packed_rows(place.stored)[place.start : place.stop]
        order = torch.arange(packed.shape[0])
        if name.split(".")[-2] in self._interleaved:
            order = half_split(order.unsqueeze(1), self._head_dim).squeeze(1)
        for block in row_blocks(packed.shape[0], tensor.shape[-1]):
            values = torch.from_numpy(_dequantized(packed[order[block].numpy()], tensor.type))
            yield values if len(tensor.shape) > 1 else values.flatten()


def _stored_shapes(places: dict[str, Place], expected: dict[str, TensorSpec]) -> dict[str, tuple[int, ...]]:
    """Return what shape each stored tensor must have: experts one after the other, fused matrices as many rows."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, spec in expected.items():
        stored = places[name].stored
        before = shapes.get(stored)
        if stored.endswith("_exps.weight"):
            shapes[stored] = (1 if before is None else before[0] + 1, *spec.shape)
        else:
            shapes[stored] = (spec.shape[0] + (0 if before is None else before[0]), *spec.shape[1:])
    return shapes


def _dequantized(packed: npt.NDArray[np.uint8], kind: GGMLQuantizationType) -> npt.NDArray[np.float32]:
    with np.errstate(all="ignore"):  # a damaged scale may be infinite
        values: npt.NDArray[np.float32] = dequantize(packed, kind)
    return np.array(values, dtype=np.float32)
