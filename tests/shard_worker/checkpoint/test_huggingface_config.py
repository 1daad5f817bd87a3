"""config.json: what is understood, what is let be, and what is refused by name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.manifest import Architecture, LinearScaling, Rope, RopeScaling, YarnScaling
from shard_worker.checkpoint.huggingface_config import read_config

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
SCALING = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LINEAR = Rope(theta=1e4, scaling=LinearScaling(kind="linear", factor=4))
SCALED = RopeScaling(
    kind="llama3",
    factor=32,
    low_frequency_factor=1,
    high_frequency_factor=4,
    original_context_length=8192,
)


def architecture(folder: Path, **changes: Any) -> Architecture:
    (folder / "config.json").write_text(json.dumps(LLAMA | changes))
    return read_config(folder).architecture()


def test_defaults(tmp_path: Path) -> None:
    assert architecture(tmp_path) == Architecture(
        family="llama",
        layers=2,
        hidden_size=64,
        intermediate_size=128,
        query_heads=4,
        kv_heads=4,
        head_dim=16,
        vocabulary_size=100,
        context_length=512,
        norm_eps=1e-5,
        rope=Rope(theta=10_000.0),
        tied_embeddings=False,
    )


def test_smollm2s_own_config(tmp_path: Path) -> None:
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/config.json
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 576,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536,
        "is_llama_config": True,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 9,
        "num_hidden_layers": 30,
        "num_key_value_heads": 3,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}},
        "use_cache": True,
        "vocab_size": 49152,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    a = read_config(tmp_path).architecture()
    assert (a.kv_heads, a.head_dim, a.tied_embeddings, a.rope) == (3, 64, True, Rope(theta=100_000.0))


@pytest.mark.parametrize(
    ("changes", "rope"),
    [
        ({"rope_theta": 5e5}, Rope(theta=5e5)),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, Rope(theta=5e5)),
        ({"rope_theta": 5e5, "rope_scaling": SCALING | {"rope_type": "llama3"}}, Rope(theta=5e5, scaling=SCALED)),
        ({"rope_theta": 5e5, "rope_scaling": SCALING | {"type": "llama3"}}, Rope(theta=5e5, scaling=SCALED)),
        (
            {"rope_parameters": SCALING | {"rope_type": "llama3", "rope_theta": 5e5}},
            Rope(theta=5e5, scaling=SCALED),
        ),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 5e5}}, Rope(theta=5e5)),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, LINEAR),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, Rope(theta=1e4)),
    ],
)
def test_rope(tmp_path: Path, changes: dict[str, Any], rope: Rope) -> None:
    assert architecture(tmp_path, **changes).rope == rope


def test_yarn_extends_the_context_that_it_states(tmp_path: Path) -> None:
    # As the model cards of Qwen 2.5 say: the file's own length stays the original one.
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    found = architecture(tmp_path, rope_scaling=yarn)
    assert found.context_length == 2048
    assert found.rope.scaling == YarnScaling(
        kind="yarn",
        factor=4,
        original_context_length=512,
        beta_fast=32,
        beta_slow=1,
        attention_factor=0.1 * math.log(4) + 1,
    )
    assert architecture(tmp_path, rope_scaling=yarn, max_position_embeddings=4096).context_length == 4096


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, 'model_type = "gpt2" is none of .*llama, mistral'),
        ({"hidden_act": "gelu"}, 'hidden_act = "gelu"'),
        ({"attention_bias": True}, "attention_bias = true"),
        ({"mlp_bias": True}, "mlp_bias = true"),
        ({"sliding_window": 4096}, "sliding_window = 4096"),
        ({"rope_scaling": {"type": "proportional"}}, r'rope_scaling\.type = "proportional"'),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "rope type 'longrope' is not supported for llama"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn"}}, "type is linear and rope_type is yarn"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "mscale": 1.0}}, r"rope_scaling\.mscale = 1\.0"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": False}}, r"rope_scaling\.truncate = false"),
        ({"rope_scaling": {"type": "linear"}}, "factor = null"),
        ({"rope_parameters": {"rope_type": "default", "beta_fast": 3.0}}, "beta_fast of a rope of type default"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor = 0\.5"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "factor = null"),
        ({"rope_scaling": SCALING}, "factor, high_freq_factor, low_freq_factor, .* of a rope of type default"),
        ({"rope_scaling": {"type": "default"}, "rope_parameters": {"type": "default"}}, "are both given"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta is given as"),
        ({"quantization_config": 4}, r"quantization_config = 4"),
        ({"num_hidden_layers": 1 << 40}, r"num_hidden_layers = 1099511627776"),
        ({"auto_map": {"AutoModel": "x.py"}}, "auto_map = "),
        ({"logit_scale": 0.1}, r"logit_scale = 0\.1"),
        ({"num_attention_heads": 0}, "num_attention_heads is not positive"),
        ({"hidden_size": "64"}, 'hidden_size = "64"'),
        ({"hidden_size": -64}, "hidden_size = -64"),
        ({"num_key_value_heads": 0}, "kv_heads = 0"),
    ],
)
def test_what_would_change_the_maths_is_named(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        architecture(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "config.json"), ("[]", "not a JSON object"), ("[" * 99_999, "recursion")]
)
def test_a_config_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        read_config(tmp_path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"model_type": "llama"} | {"x": 1}))
    with pytest.raises(CheckpointError, match="x = 1"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="hidden_size"):
        read_config(tmp_path)
