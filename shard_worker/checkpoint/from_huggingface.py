"""A folder in the Hugging Face hub's layout as a source of a checkpoint. Weights are safetensors only."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.huggingface_config import read_config, read_json
from shard_worker.checkpoint.huggingface_tokenizer import (
    read_chat_template,
    read_end_of_text_ids,
    read_tokenizer,
)
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.safetensors_header import StoredTensor, read_header
from shard_worker.checkpoint.source import ForeignModel, row_blocks

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HEAD = "lm_head.weight"
# Buffers that old versions of transformers saved: they repeat what the config says.
HARMLESS_TENSORS = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")

_OUTER_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": HEAD,
}
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def open_huggingface(folder: Path, source: str | None = None) -> ForeignModel:
    """Return the model in `folder`. `source` defaults to the folder's name.

    Raises CheckpointError, naming what is at fault, for a config that is not supported, for missing, leftover
    or misshapen tensors, and for a tokenizer that does not fit.
    """
    config = read_config(folder)
    architecture = config.architecture()
    return ForeignModel(
        source=source or folder.resolve().name,
        architecture=architecture,
        tokenizer=read_tokenizer(folder, architecture.vocabulary_size),
        chat_template=read_chat_template(folder),
        end_of_text_ids=read_end_of_text_ids(folder, config),
        tensors=_HuggingFaceTensors(folder, architecture),
    )


class _HuggingFaceTensors:
    """The weights of a hub folder, read block by block from the mapped files."""

    def __init__(self, folder: Path, architecture: Architecture) -> None:
        self._tensors = _stored_tensors(folder)
        expected = expected_tensors(architecture, "float32")
        names = {name: huggingface_name(name) for name in expected}
        if missing := set(names.values()) - self._tensors.keys():
            raise CheckpointError(f"{folder}: missing tensors: {', '.join(sorted(missing))}")
        leftover = {name for name in self._tensors if not HARMLESS_TENSORS.fullmatch(name)} - set(names.values())
        if architecture.tied_embeddings and HEAD in leftover:
            self._check_tied(folder, names["embedding.weight"])
            leftover.remove(HEAD)
        if leftover:
            raise CheckpointError(f"{folder}: leftover tensors: {', '.join(sorted(leftover))}")
        for name, spec in expected.items():
            if (shape := self._tensors[names[name]].shape) != spec.shape:
                raise CheckpointError(f"{folder}: {names[name]} is {list(shape)}, not {list(spec.shape)}")
            if not (dtype := self._tensors[names[name]].dtype).is_floating_point:
                raise CheckpointError(f"{folder}: {names[name]} has type {dtype}; only float weights can be converted")

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield blocks of rows in the stored type."""
        return self._blocks(huggingface_name(name))

    def _blocks(self, name: str) -> Iterator[torch.Tensor]:
        stored = self._tensors[name]
        try:
            with safe_open(stored.file, framework="pt") as file:
                rows = file.get_slice(name)
                for block in row_blocks(stored.shape[0], stored.shape[-1]):
                    yield rows[block]
        except SafetensorError as error:
            raise CheckpointError(f"{stored.file}: {error}") from error

    def _check_tied(self, folder: Path, embedding: str) -> None:
        tensors = (self._tensors[HEAD], self._tensors[embedding])
        if tensors[0].shape != tensors[1].shape or not all(
            torch.equal(head, tied) for head, tied in zip(self._blocks(HEAD), self._blocks(embedding), strict=True)
        ):
            raise CheckpointError(f"{folder}: tie_word_embeddings is true, but {HEAD} is not {embedding}")


def _stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of model.safetensors, or of the files its index names."""
    if (folder / WEIGHTS_FILE).is_file():
        return read_header(folder / WEIGHTS_FILE)
    index = (read_json(folder / INDEX_FILE) or {}).get("weight_map")
    if not isinstance(index, dict):
        raise CheckpointError(f"{folder}: there is neither {WEIGHTS_FILE} nor {INDEX_FILE} with a weight_map")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted({str(file) for file in index.values()}):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX_FILE} names {file!r}, which is not a safetensors file beside it")
        for name, stored in read_header(folder / file).items():
            if index.get(name) != file:
                raise CheckpointError(f"{folder / file}: the index does not place {name} there")
            tensors[name] = stored
    if missing := index.keys() - tensors.keys():
        raise CheckpointError(f"{folder}: missing tensors: {', '.join(sorted(missing))}")
    return tensors


def huggingface_name(name: str) -> str:
    """Return what the hub calls our tensor `name`."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, layer, part = name.split(".", 2)
    return f"model.layers.{layer}.{_LAYER_NAMES[part.removesuffix('.weight')]}.weight"
