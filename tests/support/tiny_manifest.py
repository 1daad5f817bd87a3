"""A manifest of a very small model, as JSON would hold it."""

from typing import Any

# What `variations` states of a model that computes what plain Llama computes, in the shape below.
LLAMA_VARIATIONS: dict[str, Any] = {
    "qkv_bias": False,
    "qk_norm": False,
    "output_norms": False,
    "activation": "silu",
    "embedding_scale": 1.0,
    "rotary_dim": 4,
    "attention_scale": 0.5,
    "attention_soft_cap": None,
    "logit_soft_cap": None,
    "windows": [None],
    "local_rope": None,
    "experts": None,
}


def tiny_manifest(shape: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the manifest, with some of its architecture's entries as in `shape` and some of its own changed.

    It states no files.
    """
    architecture: dict[str, Any] = {
        "family": "llama",
        "layers": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "query_heads": 2,
        "kv_heads": 1,
        "head_dim": 4,
        "vocabulary_size": 16,
        "context_length": 32,
        "norm_eps": 1e-5,
        "rope": {"theta": 1e4},
        "tied_embeddings": True,
    }
    manifest: dict[str, Any] = {
        "name": "tiny",
        "source": "a test",
        "architecture": architecture | shape,
        "dtype": "float32",
        "quantization": {"mode": "none"},
        "tokenizer": {"kind": "tokenizer_json", "file": "tokenizer.json", "sha256": "", "bos_id": None},
        "end_of_text_ids": [0],
        "chat_template": None,
        "files": {},
    }
    return manifest | changes
