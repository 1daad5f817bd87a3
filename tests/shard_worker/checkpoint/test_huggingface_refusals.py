"""Keys of other models, or of other versions, that would change the maths: every family refuses each by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_config import read_config
from shard_worker.checkpoint.huggingface_families import FAMILIES
from tests.support.hub_configs import SHAPE

OF_GROK = {
    "attn_output_multiplier": 0.1,
    "max_attn_value": 30.0,
    "embedding_multiplier_scale": 8.0,
    "output_multiplier_scale": 0.5,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": True,
}
OF_DBRX: dict[str, Any] = {
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "max_seq_len": 512,
    "vocab_size": 100,
    "attn_config": {"kv_n_heads": 2, "rope_theta": 5e5, "clip_qkv": 8, "model_type": ""},
    "ffn_config": {"ffn_hidden_size": 128, "moe_num_experts": 4, "moe_top_k": 2, "moe_jitter_eps": 0.01},
}
UNDERSTOOD: dict[str, dict[str, Any]] = {
    **dict.fromkeys(FAMILIES, SHAPE),
    "dbrx": OF_DBRX,
    "grok-1": SHAPE | OF_GROK,
    "baichuan": {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"},
}
CHANGES_THE_MATHS: dict[str, Any] = {
    "alibi_bias_max": 8,
    "attention_multiplier": 0.5,
    "attention_out_bias": True,
    "attn_temperature_tuning": True,
    "clip_qkv": 8.0,
    "embedding_multiplier": 12.0,
    "first_k_dense_replace": 1,
    "hidden_act": "relu",
    "attention_bias": True,
    "is_encoder_decoder": True,
    "kv_lora_rank": 512,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "logits_scaling": 8.0,
    "mlp_bias": True,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "no_rope_layers": [1, 0, 1, 0],
    "norm_topk_prob": False,
    "num_nextn_predict_layers": 1,
    "parallel_attn": True,
    "position_embedding_type": "alibi",
    "residual_multiplier": 0.2,
    "rope_interleaved": True,
    "rope_scaling": {"type": "su2", "factor": 2.0},
    "rotary_pct": 0.25,
    "router_logit_softcapping": 30.0,
    "shared_expert_intermediate_size": 64,
    "use_parallel_residual": True,
    "use_qk_norm": True,
}
OF_ONE_FAMILY: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"sliding_window": 128}, "sliding_window = 128"),
    ("mixtral", {"num_experts": 8}, "num_experts = 8"),
    ("dbrx", {"attn_config": OF_DBRX["attn_config"] | {"qk_ln": True}}, r"attn_config\.qk_ln = true"),
    ("dbrx", {"attn_config": OF_DBRX["attn_config"] | {"clip_qkv": 0}}, r"attn_config\.clip_qkv = 0"),
    ("dbrx", {"attn_config": {"kv_n_heads": 2}, "rope_parameters": {"rope_type": "llama3"}}, "factor = null"),
    ("dbrx", {"attn_config": OF_DBRX["attn_config"], "num_key_value_heads": 3}, "is not attn_config.kv_n_heads"),
    ("dbrx", {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta is given as"),
    ("dbrx", {"hidden_size": 64}, "hidden_size = 64"),
    ("dbrx", {"ffn_config": {"ffn_hidden_size": 128}}, r"ffn_config\.moe_num_experts"),
    ("dbrx", {"tie_word_embeddings": True}, "tie_word_embeddings = true"),
    *(
        ("dbrx", {"ffn_config": OF_DBRX["ffn_config"] | change}, f"ffn_config.{next(iter(change))}")
        for change in (
            {"ffn_act_fn": {"name": "gelu"}},
            {"ffn_act_fn": {"name": "silu", "slope": 2}},
            {"moe_normalize_expert_weights": 2},
            {"uniform_expert_assignment": True},
            {"shared_expert": True},
        )
    ),
    ("grok-1", {"max_attn_value": 0}, "max_attn_value = 0"),
    ("grok-1", {"num_experts_per_tok": 9}, "9 experts a token, of 8"),
    ("grok-1", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type 'linear' is not supported for grok-1"),
    ("grok-1", {"auto_map": {"AutoModelForVision2Seq": "x.py"}}, "auto_map"),
    ("baichuan", {"num_key_value_heads": 2}, "num_key_value_heads = 2"),
    ("baichuan", {"rope_theta": 1e6}, "rope_theta = 1000000"),
    ("baichuan", {"max_position_embeddings": None}, "neither max_position_embeddings nor model_max_length"),
]


def architecture(folder: Path, model_type: str, changes: dict[str, Any]) -> Any:
    fields = {"model_type": model_type} | UNDERSTOOD[model_type] | changes
    (folder / "config.json").write_text(json.dumps(fields))
    return read_config(folder).architecture()


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_key_is_refused_by_name(tmp_path: Path, model_type: str) -> None:
    assert architecture(tmp_path, model_type, {}).layers == 4
    for key, value in CHANGES_THE_MATHS.items():
        with pytest.raises(CheckpointError, match=rf"{key}.* = "):
            architecture(tmp_path, model_type, {key: value})


@pytest.mark.parametrize(("model_type", "changes", "reason"), OF_ONE_FAMILY)
def test_what_one_family_refuses(tmp_path: Path, model_type: str, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        architecture(tmp_path, model_type, changes)


@pytest.mark.parametrize("key", OF_GROK)
def test_nothing_of_grok_is_guessed(tmp_path: Path, key: str) -> None:
    fields = {"model_type": "grok-1"} | {name: value for name, value in (SHAPE | OF_GROK).items() if name != key}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=rf"{key} .* Field required"):
        read_config(tmp_path)
