"""One tiny random model in every foreign format: what `tandem convert` must turn into the same checkpoint.

The layouts are written from their sources, not from what reads them: Meta's `permute` as in transformers'
convert_llama_weights_to_hf.py (its inverse), fused matrices as in gpt-fast's convert_hf_checkpoint.py, llama2.c's order
as in its export.py.
"""

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.manifest import Architecture, Rope
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.sentencepiece_model import Piece, PieceType, serialise_bpe
from tests.support.reference import reference_name

Weights = dict[str, torch.Tensor]

TEXTS = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581a", "\u2581b", "ab", "\u2581ab", "cd", "abcd"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = [
    Piece("<unk>", 0.0, PieceType.UNKNOWN),
    Piece("<s>", 0.0, PieceType.CONTROL),
    Piece("</s>", 0.0, PieceType.CONTROL),
    *(Piece(text, 0.0, PieceType.BYTE) for text in BYTES),
    *(Piece(text, -float(rank), PieceType.NORMAL) for rank, text in enumerate(TEXTS)),
]
META_NAMES = {
    "embedding": "tok_embeddings",
    "head": "output",
    "attention_norm": "attention_norm",
    "feed_forward_norm": "ffn_norm",
    "attention.query": "attention.wq",
    "attention.key": "attention.wk",
    "attention.value": "attention.wv",
    "attention.output": "attention.wo",
    "feed_forward.gate": "feed_forward.w1",
    "feed_forward.down": "feed_forward.w2",
    "feed_forward.up": "feed_forward.w3",
}
CUT_BY_COLUMNS = ("attention.wo", "feed_forward.w2")


def tiny_architecture(**changes: Any) -> Architecture:
    """Return the architecture of the tiny model; its feed-forward width follows from PARAMS."""
    shape: dict[str, Any] = {
        **{"family": "llama", "layers": 2, "hidden_size": 32, "intermediate_size": 48},
        **{"query_heads": 4, "kv_heads": 2, "head_dim": 8, "rope": Rope(theta=10_000.0), "norm_eps": 1e-5},
        **{"vocabulary_size": len(PIECES), "context_length": 128, "tied_embeddings": False},
    }
    return Architecture(**(shape | changes))


# 8 * 32 // 3 = 85, times 0.5 is 42, up to a multiple of 8 is 48.
PARAMS: dict[str, Any] = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "multiple_of": 8,
    "ffn_dim_multiplier": 0.5,
    "norm_eps": 1e-5,
    "vocab_size": -1,
}


def tiny_weights(architecture: Architecture, dtype: torch.dtype = torch.float32) -> Weights:
    """Return random weights under our names."""
    generator = torch.Generator().manual_seed(5)
    specs = expected_tensors(architecture, "float32")
    return {name: torch.randn(spec.shape, generator=generator).to(dtype) for name, spec in specs.items()}


def write_hub(folder: Path, architecture: Architecture, weights: Weights) -> Path:
    """Make a folder of the hub's layout with safetensors."""
    _write_hub_files(folder, architecture)
    save_file({reference_name(name): tensor for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def write_pickled_hub(folder: Path, architecture: Architecture, weights: Weights, files: int = 1) -> Path:
    """Make a folder of the hub's layout with pytorch_model.bin, or several and an index."""
    _write_hub_files(folder, architecture)
    tensors = {reference_name(name): tensor for name, tensor in weights.items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    if files == 1:
        save_torch(tensors, folder / "pytorch_model.bin")
        return folder
    names = [f"pytorch_model-{i + 1:05}-of-{files:05}.bin" for i in range(files)]
    placed = {name: names[i % files] for i, name in enumerate(tensors)}
    for file in names:
        save_torch({name: tensors[name] for name in tensors if placed[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    return folder


def write_meta(
    folder: Path,
    architecture: Architecture,
    weights: Weights,
    ranks: int = 1,
    embedding_by_rows: bool = False,
    save: Callable[[Weights, Path], None] | None = None,
) -> Path:
    """Make a folder of Meta's shards, one a rank, with params.json and tokenizer.model."""
    _write_tokenizer(folder)
    (folder / "params.json").write_text(json.dumps(PARAMS))
    whole = meta_weights(architecture, weights) | {"rope.freqs": torch.ones(4)}
    for rank in range(ranks):
        shard = {name: _cut(name, tensor, rank, ranks, embedding_by_rows) for name, tensor in whole.items()}
        (save or save_torch)(shard, folder / f"consolidated.{rank:02}.pth")
    return folder


def write_gpt_fast(folder: Path, architecture: Architecture, weights: Weights, fused: bool = True) -> Path:
    """Make a folder with model.pth, tokenizer.model and config.json."""
    _write_hub_files(folder, architecture)
    tensors = meta_weights(architecture, weights)
    if fused:
        for layer in range(architecture.layers):
            parts = [tensors.pop(f"layers.{layer}.attention.{part}.weight") for part in ("wq", "wk", "wv")]
            tensors[f"layers.{layer}.attention.wqkv.weight"] = torch.cat(parts)
    save_torch(tensors, folder / "model.pth")
    return folder / "model.pth"


def write_llama2c_training(folder: Path, architecture: Architecture, weights: Weights) -> Path:
    """Make a checkpoint of llama2.c's train.py, such as stories15M.pt, with tokenizer.model; its head is tied."""
    _write_tokenizer(folder)
    tensors = {f"_orig_mod.{name}": tensor for name, tensor in meta_weights(architecture, weights).items()}
    tensors["_orig_mod.output.weight"] = tensors["_orig_mod.tok_embeddings.weight"]
    args: dict[str, Any] = {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_kv_heads": 2,
        "hidden_dim": 48,
        "vocab_size": len(PIECES),
    }
    args |= {"multiple_of": 32, "max_seq_len": 128, "dropout": 0.0}
    state = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}
    content = {"model": tensors, "model_args": args, "optimizer": state, "iter_num": 3, "best_val_loss": 1.0}
    save_torch(content | {"config": {"out_dir": "out"}}, folder / "stories.pt")
    return folder / "stories.pt"


def write_llama2c(folder: Path, architecture: Architecture, weights: Weights, version: int) -> Path:
    """Make a model file of llama2.c with tokenizer.bin beside it."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.bin").write_bytes(tokenizer_bin())
    a, tied = architecture, architecture.tied_embeddings
    numbers = [a.hidden_size, a.intermediate_size, a.layers, a.query_heads, a.kv_heads, a.vocabulary_size]
    stored = meta_weights(architecture, weights)

    def every(*parts: str) -> list[torch.Tensor]:
        return [stored[f"layers.{layer}.{part}.weight"] for part in parts for layer in range(a.layers)]

    attention = ("attention.wq", "attention.wk", "attention.wv", "attention.wo")
    feed_forward = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    head = [] if tied else [stored["output.weight"]]
    if version == 0:
        numbers[5] *= 1 if tied else -1
        header = struct.pack("<7i", *numbers, a.context_length)
        freqs = [torch.ones(a.context_length, a.head_dim // 2)] * 2
        outer = [stored["tok_embeddings.weight"], *every("attention_norm", *attention, "ffn_norm", *feed_forward)]
        tensors = [*outer, stored["norm.weight"], *freqs, *head]
    else:
        header = struct.pack("<Ii7iB", 0x616B3432, version, *numbers, a.context_length, tied).ljust(256, b"\0")
        norms = [*every("attention_norm", "ffn_norm"), stored["norm.weight"]]
        tensors = [*norms, stored["tok_embeddings.weight"], *every(*attention, *feed_forward), *head]
    path = folder / f"stories-v{version}.bin"
    path.write_bytes(header + b"".join(tensor.float().numpy().tobytes() for tensor in tensors))
    return path


def meta_weights(architecture: Architecture, weights: Weights) -> Weights:
    """Return the weights under Meta's names and in its order of rotated rows."""
    tensors = {}
    for name, tensor in weights.items():
        part = name.removesuffix(".weight").split(".", 2)
        meta = f"layers.{part[1]}.{META_NAMES[part[2]]}" if len(part) == 3 else META_NAMES.get(part[0], part[0])
        rotated = meta.endswith(("attention.wq", "attention.wk"))
        tensors[meta + ".weight"] = interleaved(tensor, architecture.head_dim) if rotated else tensor
    return tensors


def interleaved(x_RK: torch.Tensor, head_dim: int) -> torch.Tensor:
    """Return rows that rotate together side by side, from half a head apart."""
    return x_RK.view(-1, 2, head_dim // 2, x_RK.shape[1]).transpose(1, 2).reshape(x_RK.shape)


def tokenizer_bin() -> bytes:
    """Return PIECES as llama2.c's tokenizer.bin."""
    texts = [{1: "\n<s>\n", 2: "\n</s>\n"}.get(i, piece.text).replace("\u2581", " ") for i, piece in enumerate(PIECES)]
    entries = [struct.pack("<fi", p.score, len(t.encode())) + t.encode() for p, t in zip(PIECES, texts, strict=True)]
    return struct.pack("<I", max(len(text.encode()) for text in texts)) + b"".join(entries)


def save_torch(content: Any, path: Path) -> None:
    """Write a file as foreign programs do: the only place where a file of torch.save comes from."""
    torch.save(content, path)


def save_safe(tensors: Weights, path: Path) -> None:
    """Write what the child would make of a file of the same tensors."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _cut(name: str, tensor: torch.Tensor, rank: int, ranks: int, embedding_by_rows: bool) -> torch.Tensor:
    if tensor.dim() == 1:
        return tensor
    by_columns = any(part in name for part in CUT_BY_COLUMNS) or ("tok_emb" in name and not embedding_by_rows)
    return tensor.chunk(ranks, dim=int(by_columns))[rank].clone()


def _write_hub_files(folder: Path, a: Architecture) -> None:
    _write_tokenizer(folder)
    config = {
        "model_type": "llama",
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.query_heads,
        "num_key_value_heads": a.kv_heads,
        "vocab_size": a.vocabulary_size,
        "max_position_embeddings": a.context_length,
        "rms_norm_eps": a.norm_eps,
        "rope_theta": a.rope.theta,
        "tie_word_embeddings": a.tied_embeddings,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))


def sentencepiece_model(pieces: Sequence[Piece]) -> bytes:
    """Return a SentencePiece model of `pieces`."""
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
    return serialise_bpe(list(pieces), **ids, add_dummy_prefix=True, remove_extra_whitespaces=False)
