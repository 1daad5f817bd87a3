"""A GGUF file of the llama architecture as a source of a checkpoint. Key names: the GGUF specification."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from common.errors import CheckpointError
from common.manifest import Architecture, Rope
from shard_worker.checkpoint.gguf_file import GgufFile
from shard_worker.checkpoint.gguf_metadata import GgufMetadata
from shard_worker.checkpoint.gguf_tokenizer import build_tokenizer
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.source import ForeignModel, row_blocks

READABLE_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
HARMLESS_TOKENIZER_KEYS = ("_token_id", ".chat_templates", ".huggingface.json", ".merges", ".scores")
DEFAULT_ROPE_THETA = 10_000.0

_OUTER_NAMES = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "head.weight": "output.weight",
}
_LAYER_NAMES = {
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}


def open_gguf(path: Path, source: str | None = None) -> ForeignModel:
    """Return the model in the GGUF file `path`. `source` defaults to the file's name.

    Raises CheckpointError, naming what is at fault, for another architecture, rope scaling, experts,
    quantisation types other than READABLE_TYPES, tensors or keys that are not known, and for tokenizers that
    cannot be rebuilt.
    """
    file = GgufFile(path)
    metadata = GgufMetadata(file.metadata)
    architecture = _architecture(metadata, file)
    tokenizer = build_tokenizer(metadata, architecture.vocabulary_size)
    chat_template = metadata.get("tokenizer.chat_template", str)
    # The turn's end and the text's end are what the file itself says; SmolLM2's is <|im_end|> alone, as in
    # its generation_config.json on the hub.
    ends = [metadata.get(f"tokenizer.ggml.{kind}_token_id", int) for kind in ("eos", "eot")]
    metadata.refuse_unknown("llama.")
    metadata.refuse_unknown("tokenizer.", HARMLESS_TOKENIZER_KEYS)
    return ForeignModel(
        source=source or path.name,
        architecture=architecture,
        tokenizer=tokenizer,
        chat_template=chat_template,
        end_of_text_ids=tuple(dict.fromkeys(end for end in ends if end is not None)),
        tensors=_GgufTensors(file, architecture),
    )


def _architecture(metadata: GgufMetadata, file: GgufFile) -> Architecture:
    family = metadata.require("general.architecture", str)
    if family != "llama":
        raise CheckpointError(f"GGUF architecture {family!r} is not supported, only 'llama'")
    if (scaling := metadata.get("llama.rope.scaling.type", str, "none")) != "none":
        raise CheckpointError(f"GGUF rope scaling {scaling!r} is not supported")
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError("GGUF tensor token_embd.weight is missing")
    hidden_size = metadata.require("llama.embedding_length", int)
    query_heads = metadata.require("llama.attention.head_count", int)
    vocabulary_size = file.tensors["token_embd.weight"].shape[0]
    if query_heads < 1:
        raise CheckpointError("GGUF key llama.attention.head_count is 0")
    head_dim = metadata.get("llama.attention.key_length", int, hidden_size // query_heads)
    for key, supported in {
        "llama.attention.value_length": head_dim,
        "llama.rope.dimension_count": head_dim,
        "llama.vocab_size": vocabulary_size,
    }.items():
        if (value := metadata.get(key, int, supported)) != supported:
            raise CheckpointError(f"GGUF key {key} is {value}; only {supported} is supported here")
    try:
        return Architecture(
            family="llama",
            layers=metadata.require("llama.block_count", int),
            hidden_size=hidden_size,
            intermediate_size=metadata.require("llama.feed_forward_length", int),
            query_heads=query_heads,
            kv_heads=metadata.get("llama.attention.head_count_kv", int, query_heads),
            head_dim=head_dim,
            vocabulary_size=vocabulary_size,
            context_length=metadata.require("llama.context_length", int),
            norm_eps=_shortest(metadata.require("llama.attention.layer_norm_rms_epsilon", float)),
            rope=Rope(theta=_shortest(metadata.get("llama.rope.freq_base", float, DEFAULT_ROPE_THETA))),
            tied_embeddings="output.weight" not in file.tensors,
        )
    except ValueError as error:
        raise CheckpointError(f"GGUF metadata do not make an architecture: {error}") from error


def _shortest(value: float) -> float:
    """Undo the detour of a decimal over float32: 1e-05 was stored as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


class _GgufTensors:
    """The weights of a GGUF file, dequantised block by block."""

    def __init__(self, file: GgufFile, architecture: Architecture) -> None:
        self._file = file
        self._heads = {"query": architecture.query_heads, "key": architecture.kv_heads}
        expected = expected_tensors(architecture, "float32")
        names = {name: _gguf_name(name) for name in expected}
        if missing := set(names.values()) - file.tensors.keys():
            raise CheckpointError(f"GGUF tensors are missing: {', '.join(sorted(missing))}")
        if leftover := file.tensors.keys() - set(names.values()):
            raise CheckpointError(f"GGUF tensors that are not supported: {', '.join(sorted(leftover))}")
        for name, spec in expected.items():
            tensor = file.tensors[names[name]]
            if tensor.shape != spec.shape:
                raise CheckpointError(f"GGUF tensor {names[name]} is {tensor.shape}, not {spec.shape}")
            if tensor.type.name not in READABLE_TYPES:
                raise CheckpointError(f"GGUF tensor {names[name]} has type {tensor.type.name}, which is not supported")

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield float32 blocks of rows."""
        tensor = self._file.tensors[_gguf_name(name)]
        rows = self._file.packed_rows(_gguf_name(name))
        if heads := self._heads.get(name.split(".")[-2]):
            rows = half_split_rows(rows, heads)
        for block in row_blocks(rows.shape[0], tensor.shape[-1]):
            values = torch.from_numpy(_dequantized(np.ascontiguousarray(rows[block]), tensor.type))
            yield values.reshape(-1, *tensor.shape[1:]) if len(tensor.shape) > 1 else values.flatten()


def half_split_rows(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return query or key rows [heads * head_dim, *] in half-split order, from GGUF's interleaved one.

    GGUF stores the two rows that rotate together side by side; llama.cpp's converter brought them there from
    the half-split order of Hugging Face (`LlamaModel.permute` in convert_hf_to_gguf.py), and this is its
    inverse.
    """
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _dequantized(packed: npt.NDArray[np.uint8], kind: GGMLQuantizationType) -> npt.NDArray[np.float32]:
    values: npt.NDArray[np.float32] = dequantize(packed, kind)
    return np.array(values, dtype=np.float32)


def _gguf_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, layer, part = name.split(".", 2)
    return f"blk.{layer}.{_LAYER_NAMES[part.removesuffix('.weight')]}.weight"
