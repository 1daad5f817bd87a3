"""A hub folder as a GGUF file, the way llama.cpp's converter makes one (convert_hf_to_gguf.py)."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFValueType
from gguf.gguf_writer import GGUFWriter
from gguf.quants import dequantize, quantize
from gguf.tensor_mapping import get_tensor_name_map
from safetensors.numpy import load_file, save_file

from shard_worker.checkpoint.gguf_file import GgufArray, Value

GGUF_FAMILIES = {"mistral": "llama", "mixtral": "llama", "gemma3_text": "gemma3"}
BLOCK = 32
F32 = GGMLQuantizationType.F32


def gguf_of(
    folder: Path, path: Path, kind: GGMLQuantizationType = F32, entries: Mapping[str, Any] | None = None
) -> Path:
    """Write the model in `folder` to `path`; matrices that fill blocks are of type `kind`. `entries` adds metadata."""
    config = json.loads((folder / "config.json").read_text())
    family = GGUF_FAMILIES.get(config["model_type"], config["model_type"])
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == family)
    writer = GGUFWriter(path, family)
    for key, value in (_architecture(config, family) | _tokenizer(config["vocab_size"]) | dict(entries or {})).items():
        add_entry(writer, key, value)
    for name, array in (_weights(folder, config, arch) | _rope_factors(config, arch)).items():
        stored = kind if _is_quantised(array) else F32
        writer.add_tensor(name, quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dequantised(folder: Path, kind: GGMLQuantizationType) -> None:
    """Replace the matrices in the hub folder `folder` by what is left of them after a detour over `kind`."""
    tensors = load_file(folder / "model.safetensors")
    for name, array in tensors.items():
        if _is_quantised(array):
            tensors[name] = dequantize(quantize(array, kind), kind).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def add_entry(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add one entry of the metadata in the type that llama.cpp gives it; None is left out."""
    match value:
        case None:
            pass
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def as_stored(entries: Mapping[str, Any]) -> dict[str, Value]:
    """Return metadata as a file's header holds them: lists as arrays in their stored form."""
    return {key: _stored_array(value) if isinstance(value, list) else value for key, value in entries.items()}


def _stored_array(items: list[Any]) -> GgufArray:
    if items and isinstance(items[0], str):
        texts = [item.encode() for item in items]
        return GgufArray(GGUFValueType.STRING, len(items), b"".join(struct.pack("<Q", len(t)) + t for t in texts))
    kind, code = (GGUFValueType.FLOAT64, "d") if items and isinstance(items[0], float) else (GGUFValueType.INT64, "q")
    return GgufArray(kind, len(items), struct.pack(f"<{len(items)}{code}", *items))


def _is_quantised(array: npt.NDArray[Any]) -> bool:
    return array.ndim > 1 and array.shape[-1] % BLOCK == 0


def _architecture(c: dict[str, Any], family: str) -> dict[str, Any]:
    rope = c["rope_parameters"]
    whole = rope.get("full_attention", rope)
    entries = {
        "block_count": c["num_hidden_layers"],
        "context_length": c["max_position_embeddings"],
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": c["rms_norm_eps"],
        "attention.key_length": c["head_dim"],
        "attention.value_length": c["head_dim"],
        "rope.freq_base": float(whole["rope_theta"]),
    }
    if whole["rope_type"] == "linear":
        entries |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(whole["factor"])}
    if family == "llama":
        entries |= {"vocab_size": c["vocab_size"], "rope.dimension_count": c["head_dim"]}
        entries |= {"expert_count": c.get("num_local_experts"), "expert_used_count": c.get("num_experts_per_tok")}
    if family == "phi3":
        factor = rope.get("partial_rotary_factor", 1)
        entries["rope.dimension_count"] = int(factor * c["head_dim"])
        entries["rope.scaling.original_context_length"] = c["original_max_position_embeddings"]
    if family in ("phi3", "gemma2", "gemma3"):
        entries["attention.sliding_window"] = c["sliding_window"] or 0
    if family in ("gemma2", "gemma3"):
        entries["final_logit_softcapping"] = c["final_logit_softcapping"]
        entries["attn_logit_softcapping"] = c["attn_logit_softcapping"]
    if family == "gemma3":
        local = [kind == "sliding_attention" for kind in c["layer_types"]]
        usual = [layer % 6 < 5 for layer in range(len(local))]
        entries["attention.sliding_window_pattern"] = None if local == usual else local
    if "sliding_attention" in rope:
        entries["rope.freq_base_swa"] = float(rope["sliding_attention"]["rope_theta"])
    return {f"{family}.{key}": value for key, value in entries.items()}


def _tokenizer(size: int) -> dict[str, Any]:
    tokens = [chr(256 + id) for id in range(255)] + [chr(256) + chr(257), "<end>"]
    tokens += [f"[PAD{id}]" for id in range(len(tokens), size)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 256 + [3] + [5] * (size - 257),
        "tokenizer.ggml.merges": [f"{tokens[0]} {tokens[1]}"],
        "tokenizer.ggml.eos_token_id": 256,
    }


def _weights(folder: Path, c: dict[str, Any], arch: MODEL_ARCH) -> dict[str, npt.NDArray[Any]]:
    theirs = load_file(folder / "model.safetensors")
    for layer in range(c["num_hidden_layers"]) if "num_local_experts" in c else ():
        for matrix in ("w1", "w2", "w3"):
            prefix = f"model.layers.{layer}.block_sparse_moe.experts"
            experts = [theirs.pop(f"{prefix}.{e}.{matrix}.weight") for e in range(c["num_local_experts"])]
            theirs[f"layers.{layer}.feed_forward.experts.{matrix}.weight"] = np.stack(experts)
    names = get_tensor_name_map(arch, c["num_hidden_layers"])
    weights = {}
    for name, array in theirs.items():
        heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}.get(name.split(".")[-2])
        if heads and arch == MODEL_ARCH.LLAMA:
            array = permuted(array, heads)
        if c["model_type"].startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        foreign = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert foreign is not None, name
        weights[foreign] = array
    return weights


def _rope_factors(c: dict[str, Any], arch: MODEL_ARCH) -> dict[str, npt.NDArray[Any]]:
    rope = c["rope_parameters"]
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{which}.weight": np.array(rope[f"{which}_factor"], np.float32) for which in ("short", "long")
        }
    if rope.get("rope_type") != "llama3":
        return {}
    factors = []
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    for frequency in np.float32(1) / np.float32(rope["rope_theta"]) ** (
        np.arange(0, c["head_dim"], 2, dtype=np.float32) / c["head_dim"]
    ):
        turns = rope["original_max_position_embeddings"] / (2 * np.pi / frequency)
        smooth = (turns - low) / (high - low)
        factors.append(1 if turns > high else factor if turns < low else 1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": np.array(factors, np.float32)}


def permuted(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Return query or key rows as llama.cpp stores them (`LlamaModel.permute`)."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
