"""Tiny models to make checkpoints of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.gguf_writer import GGUFWriter
from gguf.quants import quantize

from common.manifest import Architecture, Manifest, Rope
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.source import ForeignModel, TokenizerSource, row_blocks
from shard_worker.checkpoint.weight_shapes import Dtype
from shard_worker.checkpoint.writer import write_checkpoint
from tests.support.tiny_gguf import add_entry, permuted

EMPTY_TOKENIZER = b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'
TINY: dict[str, Any] = {
    "family": "llama",
    "layers": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "query_heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "vocabulary_size": 40,
    "context_length": 128,
    "norm_eps": 1e-5,
    "rope": Rope(theta=10_000.0),
    "tied_embeddings": False,
}


@dataclass
class TensorTable:
    """Tensors that are simply there."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        tensor = self.values[name]
        for block in row_blocks(tensor.shape[0], tensor.shape[-1]):
            yield tensor[block]


@pytest.fixture
def make_model() -> Callable[..., tuple[ForeignModel, dict[str, torch.Tensor]]]:
    """Return a maker of random models, which also returns their tensors."""

    def make(**changes: Any) -> tuple[ForeignModel, dict[str, torch.Tensor]]:
        architecture = Architecture(**(TINY | changes))
        generator = torch.Generator().manual_seed(1)
        specs = expected_tensors(architecture, "float32")
        values = {name: torch.randn(spec.shape, generator=generator) for name, spec in specs.items()}
        model = ForeignModel(
            source="random",
            architecture=architecture,
            tokenizer=TokenizerSource("tokenizer_json", EMPTY_TOKENIZER, bos_id=1),
            chat_template="{{ messages }}",
            end_of_text_ids=(2, 3),
            tensors=TensorTable(values),
        )
        return model, values

    return make


@pytest.fixture
def write() -> Callable[..., Manifest]:
    """Return a function that writes a model to a folder without showing progress."""

    def write_to(model: ForeignModel, folder: Path, dtype: Dtype = "float32", **kwargs: Any) -> Manifest:
        with OutputFolder(folder) as output:
            return write_checkpoint(model, output, "tiny", dtype, lambda *_: None, **kwargs)

    return write_to


BYTE_TOKENS = [f"<0x{i:02X}>" for i in range(256)]


GGUF_NAMES = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
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


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a model's tensors as a GGUF file with a byte-level tokenizer.

    `entries` adds metadata or, with None, leaves one out; `tensors` adds tensors; `kind` is the type of
    matrices, made by `quantise`.
    """

    def write(
        model: ForeignModel,
        values: dict[str, torch.Tensor],
        entries: dict[str, Any] | None = None,
        tensors: dict[str, npt.NDArray[Any]] | None = None,
        kind: GGMLQuantizationType = GGMLQuantizationType.F32,
        quantise: Callable[..., npt.NDArray[Any]] = quantize,
    ) -> Path:
        a = model.architecture
        tokens = ["<end>", "<start>", *BYTE_TOKENS][: a.vocabulary_size]
        metadata: dict[str, Any] = {
            "llama.block_count": a.layers,
            "llama.context_length": a.context_length,
            "llama.embedding_length": a.hidden_size,
            "llama.feed_forward_length": a.intermediate_size,
            "llama.attention.head_count": a.query_heads,
            "llama.attention.head_count_kv": a.kv_heads,
            "llama.attention.key_length": a.head_dim,
            "llama.attention.value_length": a.head_dim,
            "llama.rope.freq_base": a.rope.theta,
            "llama.attention.layer_norm_rms_epsilon": a.norm_eps,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
            "tokenizer.ggml.merges": [f"{tokens[2]} {tokens[3]}"],
            "tokenizer.ggml.eos_token_id": 0,
            "tokenizer.chat_template": "{{ messages }}",
        }
        metadata["tokenizer.ggml.tokens"][4] = tokens[2] + tokens[3]
        writer = GGUFWriter(tmp_path / "model.gguf", "llama")
        writer.data_alignment = (entries or {}).get("general.alignment", 32)
        for key, value in (metadata | (entries or {})).items():
            add_entry(writer, key, value)
        for name, tensor in values.items():
            part = name.removesuffix(".weight").split(".", 2)
            foreign = f"blk.{part[1]}.{GGUF_NAMES[part[2]]}" if len(part) == 3 else GGUF_NAMES[part[0]]
            array = tensor.numpy()
            if foreign.endswith(("attn_q", "attn_k")):
                array = permuted(array, a.query_heads if foreign.endswith("attn_q") else a.kv_heads)
            stored = GGMLQuantizationType.F32 if array.ndim == 1 else kind
            writer.add_tensor(foreign + ".weight", quantise(array, stored), raw_dtype=stored)
        for name, array in (tensors or {}).items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "model.gguf"

    return write
