"""config.json of each family: the models' own files, and what of them is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.huggingface_config import read_config

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}


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


@pytest.mark.parametrize(
    ("model_type", "changes", "reason"),
    [
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, r'rope_scaling\.type = "yarn"'),
        ("qwen2", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope type 'linear' is not supported for qwen2"),
        ("qwen2", {"use_mrope": True}, "use_mrope = true"),
        ("qwen2", {"layer_types": ["full_attention"]}, "1 layer_types for 4 layers"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "there is no sliding_window"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 4}, r'layer_types\.0 = "chunked_attention"'),
        ("qwen2", {"hidden_act": "gelu"}, 'hidden_act = "gelu"'),
        ("qwen3", {"attention_bias": True}, "attention_bias = true"),
        ("mistral", {"sliding_window": -1}, "windows.0"),
        ("qwen2_moe", {}, 'model_type = "qwen2_moe" is none of'),
    ],
)
def test_what_would_change_the_maths_is_named(
    tmp_path: Path, model_type: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        architecture(tmp_path, model_type, **changes)
