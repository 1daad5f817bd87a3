"""params.json of real models, and what is refused in it."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.manifest import Architecture, RopeScaling
from shard_worker.checkpoint.meta_params import parse_params
from tests.support.foreign_checkpoints import PARAMS

# What Meta published, and what Hugging Face's config.json says of the same models.
LLAMA_1_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}
LLAMA_2_70B = {
    **{"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80},
    **{"norm_eps": 1e-05, "vocab_size": -1},
}
LLAMA_3_8B = {
    **{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024},
    **{"ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0},
}
CODELLAMA_34B = {
    **{"dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": 1.0},
    **{"norm_eps": 1e-5, "rope_theta": 1000000, "vocab_size": 32000},
}


def architecture(fields: dict[str, Any], rows: int = 32000, context_length: int | None = 4096) -> Architecture:
    return parse_params(Path("params.json"), fields).architecture(rows, context_length)


@pytest.mark.parametrize(
    ("fields", "rows", "intermediate_size", "kv_heads", "theta"),
    [
        (LLAMA_1_7B, 32000, 11008, 32, 1e4),
        (LLAMA_2_70B, 32000, 28672, 8, 1e4),
        (LLAMA_3_8B, 128256, 14336, 8, 5e5),
        (CODELLAMA_34B, 32000, 22016, 8, 1e6),
    ],
    ids=["llama 1 7b", "llama 2 70b", "llama 3 8b", "codellama 34b"],
)
def test_real_models(fields: dict[str, Any], rows: int, intermediate_size: int, kv_heads: int, theta: float) -> None:
    a = architecture(fields, rows)
    assert (a.intermediate_size, a.kv_heads, a.head_dim, a.rope.theta) == (intermediate_size, kv_heads, 128, theta)
    assert (a.vocabulary_size, a.norm_eps, a.rope.scaling) == (rows, fields["norm_eps"], None)
    assert a.tied_embeddings is False and a.variations is None


def test_scaled_rope() -> None:
    wanted: dict[str, Any] = {
        "low_frequency_factor": 1.0,
        "high_frequency_factor": 4.0,
        "original_context_length": 8192,
    }
    said = {"use_scaled_rope": True, "rope_scaling_factor": 32.0}
    assert architecture(PARAMS | said).rope.scaling == RopeScaling(kind="llama3", factor=32.0, **wanted)
    scaling = architecture(PARAMS | {"use_scaled_rope": True}).rope.scaling
    assert scaling == RopeScaling(kind="llama3", factor=8.0, **wanted)


def test_the_context_is_what_is_said() -> None:
    assert architecture(PARAMS | {"max_seq_len": 64}, context_length=None).context_length == 64
    assert architecture(PARAMS | {"max_seq_len": 64}, context_length=32).context_length == 32
    with pytest.raises(CheckpointError, match=r"does not say how long the context is; --context-length does \(Llama 1"):
        architecture(PARAMS, context_length=None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_scaling_factor": 2.0}, "rope_scaling_factor is given, but use_scaled_rope is not true"),
        ({"vocab_size": 31999}, "vocab_size is 31999, of tok_embeddings 32000"),
        ({"n_heads": 5}, "5 heads do not divide a dim of 32"),
        ({"multiple_of": None}, "neither multiple_of nor hidden_dim"),
        ({"hidden_dim": 48}, "hidden_dim and ffn_dim_multiplier are both given"),
        ({"sliding_window": 4096}, "sliding_window = 4096: Extra inputs"),
        ({"moe": {"num_experts": 8}}, "moe = .*: Extra inputs"),
        ({"quantization_args": {}}, "quantization_args = {}: Extra inputs"),
        ({"lora_args": {"rank": 16}}, "lora_args = .*: Extra inputs"),
        ({"dim": "32"}, 'dim = "32": Input should be a valid integer'),
        ({"n_layers": 0}, "n_layers = 0"),
        ({"norm_eps": float("nan")}, "norm_eps = NaN"),
        ({"norm_eps": -1.0}, "norm_eps"),
    ],
    ids=str,
)
def test_what_changes_the_maths_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        architecture(PARAMS | changes)
