"""The config.json files of well-known models, as they are on the hub: each is understood, and to what it comes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from common.errors import CheckpointError
from common.manifest import Architecture
from shard_worker.checkpoint.huggingface_config import read_config
from shard_worker.checkpoint.huggingface_families import FAMILIES
from shard_worker.checkpoint.layout import expected_tensors
from tests.support.hub_configs import HUB_CONFIGS

# Parameters, embeddings and head included, to a tenth of a billion; head size; context; rope base.
FACTS: dict[str, tuple[float, int, int, float]] = {
    "huggyllama/llama-7b": (6.7, 128, 2048, 1e4),
    "openlm-research/open_llama_7b": (6.7, 128, 2048, 1e4),
    "meta-llama/Llama-2-70b-hf": (69.0, 128, 4096, 1e4),
    "codellama/CodeLlama-34b-Python-hf": (33.7, 128, 16384, 1e6),
    "meta-llama/Meta-Llama-3-8B": (8.0, 128, 8192, 5e5),
    "meta-llama/Llama-3.1-8B": (8.0, 128, 131072, 5e5),
    "meta-llama/Llama-3.2-1B": (1.2, 64, 131072, 5e5),
    "mistralai/Mistral-7B-v0.1": (7.2, 128, 32768, 1e4),
    "mistralai/Mistral-7B-Instruct-v0.2": (7.2, 128, 32768, 1e6),
    "mistralai/Mixtral-8x7B-v0.1": (46.7, 128, 32768, 1e6),
    "Qwen/Qwen2.5-7B": (7.6, 128, 131072, 1e6),
    "Qwen/Qwen3-8B": (8.2, 128, 40960, 1e6),
    "google/gemma-2b": (2.5, 256, 8192, 1e4),
    "google/gemma-2-9b": (9.2, 256, 8192, 1e4),
    "google/gemma-3-1b-it": (1.0, 256, 32768, 1e6),
    "microsoft/Phi-3-mini-4k-instruct": (3.8, 96, 4096, 1e4),
    "databricks/dbrx-base": (131.6, 128, 32768, 5e5),
    "hpcai-tech/grok-1": (315.7, 128, 8192, 1e4),
    "baichuan-inc/Baichuan-7B": (7.0, 128, 4096, 1e4),
    "baichuan-inc/Baichuan2-7B-Base": (7.5, 128, 4096, 1e4),
    "baichuan-inc/Baichuan-13B-Base": (13.3, 128, 4096, 1e4),
}


def architecture(folder: Path, fields: dict[str, Any]) -> Architecture:
    (folder / "config.json").write_text(json.dumps(fields))
    return read_config(folder).architecture()


@pytest.mark.parametrize("name", HUB_CONFIGS)
def test_it_is_understood(tmp_path: Path, name: str) -> None:
    found = architecture(tmp_path, HUB_CONFIGS[name] | {"transformers_version": "4.40.0", "torch_dtype": "bfloat16"})
    parameters = sum(math.prod(spec.shape) for spec in expected_tensors(found, "bfloat16").values())
    facts = (round(parameters / 1e9, 1), found.head_dim, found.context_length, found.rope.theta)
    assert facts == FACTS[name]


def test_every_family_is_there() -> None:
    families = {fields.get("model_type", "grok-1") for fields in HUB_CONFIGS.values()}
    assert families == FAMILIES.keys()


def test_what_departs_from_llama(tmp_path: Path) -> None:
    found = {name: architecture(tmp_path, fields).departures for name, fields in HUB_CONFIGS.items()}
    assert found["databricks/dbrx-base"] == ("experts", "layer norms", "clipped queries, keys and values")
    assert found["hpcai-tech/grok-1"] == (
        "output norms",
        "activation gelu_tanh",
        "embedding scale",
        "soft caps",
        "experts",
        "logit scale",
    )
    assert found["baichuan-inc/Baichuan-13B-Base"] == ("partly rotated heads", "linear biases")
    plain = [name for name, departures in found.items() if not departures]
    assert [name.split("/")[0] for name in plain] == [
        "huggyllama",
        "openlm-research",
        "meta-llama",
        "codellama",
        *["meta-llama"] * 3,
        "mistralai",
        *["baichuan-inc"] * 2,
    ]


def test_grok_s_numbers(tmp_path: Path) -> None:
    v = architecture(tmp_path, HUB_CONFIGS["hpcai-tech/grok-1"]).variations
    assert v is not None and v.experts is not None and not v.experts.normalized
    assert v.embedding_scale == pytest.approx(6144**0.5) and v.logit_scale == pytest.approx(3**-0.5)
    assert v.attention_scale == pytest.approx(128**-0.5) and v.attention_soft_cap == 30


def test_two_windows_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="sliding_window_size"):
        architecture(tmp_path, HUB_CONFIGS["google/gemma-2-9b"] | {"sliding_window_size": 2048})


def test_baichuan_2_without_its_mark_is_refused(tmp_path: Path) -> None:
    """The key alone tells that the head's rows are normalised."""
    fields = {key: value for key, value in HUB_CONFIGS["baichuan-inc/Baichuan2-7B-Base"].items() if key[0] != "z"}
    with pytest.raises(CheckpointError, match="z_loss_weight"):
        architecture(tmp_path, fields)
