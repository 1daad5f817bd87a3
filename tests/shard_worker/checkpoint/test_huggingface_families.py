"""config.json of each family: the models' own files, and what of them is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.manifest import Architecture, Experts, LinearScaling, LongRopeScaling, Rope
from shard_worker.checkpoint.huggingface_config import read_config
from tests.support.hub_configs import SHAPE

SCALING = {"rope_type": "linear", "factor": 8.0}


def architecture(folder: Path, model_type: str, **changes: Any) -> Architecture:
    (folder / "config.json").write_text(json.dumps(SHAPE | {"model_type": model_type} | changes))
    return read_config(folder).architecture()


@pytest.mark.parametrize(
    ("model_type", "changes", "departures"),
    [
        ("llama", {}, ()),
        ("mistral", {"sliding_window": None}, ()),
        ("mistral", {"sliding_window": 128}, ("sliding windows",)),
        ("mistral", {"sliding_window": 512}, ()),
        ("qwen2", {"sliding_window": 128}, ("query, key and value biases",)),
        ("qwen3", {"head_dim": 16}, ("query and key norms",)),
        ("phi3", {}, ()),
        ("phi3", {"partial_rotary_factor": 0.75}, ("partly rotated heads",)),
        ("gemma", {}, ("activation gelu_tanh", "embedding scale")),
        ("mixtral", {}, ("experts",)),
    ],
)
def test_departures(tmp_path: Path, model_type: str, changes: dict[str, Any], departures: tuple[str, ...]) -> None:
    assert architecture(tmp_path, model_type, **changes).departures == departures


def windows(found: Architecture) -> list[int | None]:
    assert found.variations is not None
    return list(found.variations.windows)


def test_mistral_v01_s_window_is_on_every_layer(tmp_path: Path) -> None:
    found = architecture(tmp_path, "mistral", max_position_embeddings=32_768, sliding_window=4096, rope_theta=1e4)
    assert windows(found) == [4096] * 4 and found.family == "mistral"


def test_qwen2_s_window_is_on_late_layers_where_it_is_used(tmp_path: Path) -> None:
    found = architecture(tmp_path, "qwen2", use_sliding_window=True, sliding_window=128, max_window_layers=3)
    assert windows(found) == [None, None, None, 128]
    types = ["sliding_attention", "full_attention"] * 2
    found = architecture(tmp_path, "qwen2", use_sliding_window=True, sliding_window=128, layer_types=types)
    assert windows(found) == [128, None, 128, None]


def test_phi3_128k_serves_the_context_of_its_short_factors(tmp_path: Path) -> None:
    # Values as in https://huggingface.co/microsoft/Phi-3-mini-128k-instruct/blob/main/config.json, but the shape.
    longrope = {"type": "longrope", "short_factor": [1.05] * 8, "long_factor": [1.08] * 8}
    found = architecture(
        tmp_path,
        "phi3",
        auto_map={"AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3"},
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        attention_bias=False,
        rope_scaling=longrope,
        rope_theta=10_000.0,
        sliding_window=262_144,
    )
    assert found.context_length == 4096
    assert isinstance(found.rope.scaling, LongRopeScaling)
    assert found.rope.scaling.factors == (1.05,) * 8
    assert found.rope.scaling.attention_factor == pytest.approx(1.1902380714238083)  # sqrt(1 + ln 32 / ln 4096)
    assert found.departures == ()


def test_gemma1_in_its_first_wording(tmp_path: Path) -> None:
    found = architecture(tmp_path, "gemma", hidden_act="gelu", hidden_size=3072).variations
    assert found is not None and (found.activation, found.embedding_scale) == ("gelu_tanh", 3072**0.5)


def test_gemma2_in_the_hub_s_wording(tmp_path: Path) -> None:
    # As in https://huggingface.co/google/gemma-2-2b/blob/main/config.json: no layer_types, both activations.
    found = architecture(
        tmp_path,
        "gemma2",
        attn_logit_softcapping=50.0,
        cache_implementation="hybrid",
        final_logit_softcapping=30.0,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=256,
        sliding_window=128,
    )
    assert windows(found) == [128, None, 128, None]
    assert found.head_dim == 256 and found.tied_embeddings
    assert found.variations is not None and found.variations.local_rope is None
    assert (found.variations.attention_soft_cap, found.variations.logit_soft_cap) == (50, 30)
    assert found.variations.attention_scale == 1 / 16


def test_gemma3_in_both_wordings(tmp_path: Path) -> None:
    # As in https://huggingface.co/google/gemma-3-1b-it/blob/main/config.json, and as transformers 5 writes it.
    common = {"query_pre_attn_scalar": 256, "sliding_window": 128}
    ropes = {"full_attention": SCALING | {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    types = ["sliding_attention"] * 2 + ["full_attention", "sliding_attention"]
    old = {"rope_local_base_freq": 10_000, "rope_theta": 1_000_000, "rope_scaling": SCALING}
    first = architecture(tmp_path, "gemma3_text", **common, **old, sliding_window_pattern=3)
    second = architecture(tmp_path, "gemma3_text", **common, rope_parameters=ropes, layer_types=types)
    assert first == second and first.family == "gemma3"
    assert windows(first) == [128, 128, None, 128]
    assert first.rope == Rope(theta=1e6, scaling=LinearScaling(kind="linear", factor=8.0))
    assert first.variations is not None and first.variations.local_rope == Rope(theta=1e4)


def test_mixtral_s_defaults(tmp_path: Path) -> None:
    found = architecture(tmp_path, "mixtral", output_router_logits=False, router_aux_loss_coef=0.02)
    assert found.variations is not None and found.variations.experts == Experts(count=8, per_token=2)
    assert found.rope.theta == 1e6


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mixtral"])
def test_kv_heads_are_not_guessed(tmp_path: Path, model_type: str) -> None:
    fields = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
    (tmp_path / "config.json").write_text(json.dumps(fields | {"model_type": model_type}))
    with pytest.raises(CheckpointError, match=r"num_key_value_heads .* Field required"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("qwen2", {"rope_scaling": {"type": "mrope"}}, r'rope_scaling\.type = "mrope"'),
        ("qwen2", {"use_mrope": True}, "use_mrope = true"),
        ("qwen2", {"layer_types": ["full_attention"]}, "1 layer_types for 4 layers"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "there is no sliding_window"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, r'layer_types\.0 = "chunked_attention"'),
        ("qwen2", {"hidden_act": "gelu"}, 'hidden_act = "gelu"'),
        ("qwen3", {"attention_bias": True}, "attention_bias = true"),
        ("phi3", {"rope_scaling": {"type": "yarn"}}, "rope type 'yarn' is not supported for phi3"),
        ("phi3", {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 8}}, "factors = null"),
        ("phi3", {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 7}}, "7 longrope factors for 8"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias = true"),
        ("phi3", {"partial_rotary_factor": 0.7}, "rotary_dim 11 is odd"),
        ("phi3", {"embd_layer": {"image": 1}}, "embd_layer = "),
        ("gemma", {"hidden_act": "silu"}, 'hidden_act = "silu"'),
        ("gemma", {"hidden_activation": "gelu"}, 'hidden_activation = "gelu"'),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention = true"),
        ("gemma2", {"attn_logit_softcapping": -1.0}, "attention_soft_cap = -1"),
        ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar = 0"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, r"attn_logit_softcapping = 50\.0"),
        ("gemma3_text", {"rope_scaling": SCALING, "rope_parameters": SCALING}, "are both given"),
        ("gemma3", {"text_config": {}}, 'model_type = "gemma3" is none of'),
        ("mixtral", {"num_experts_per_tok": 9}, "9 experts a token, of 8"),
        ("mixtral", {"num_local_experts": 0}, "count = 0"),
        ("mixtral", {"moe_layer_freq": 2}, "moe_layer_freq = 2"),
        ("mistral", {"sliding_window": -1}, "windows.0"),
        ("qwen2_moe", {}, 'model_type = "qwen2_moe" is none of'),
    ],
)
def test_what_would_change_the_maths_is_named(
    tmp_path: Path, model_type: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        architecture(tmp_path, model_type, **changes)
