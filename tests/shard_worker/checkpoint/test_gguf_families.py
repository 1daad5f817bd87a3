"""GGUF files of every family: the same checkpoint as of the hub's folder, and transformers' logits."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from common.errors import CheckpointError
from common.manifest import LinearScaling, LongRopeScaling, Manifest
from shard_worker.checkpoint.from_gguf import open_gguf
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.source import ForeignModel
from shard_worker.checkpoint.writer import write_checkpoint
from shard_worker.model.rope import inverse_frequencies
from tests.support.greedy import assert_matches
from tests.support.local_ranks import LocalRanks
from tests.support.reference import reference_logits
from tests.support.tiny_families import FAMILIES, PLAIN_CODE, TinyFamily, random_family
from tests.support.tiny_gguf import dequantised, gguf_of
from tests.support.tiny_model import byte_tokenizer

# Widths that fill blocks of 32.
WIDE: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
WIDE |= {"head_dim": 16, "num_hidden_layers": 4}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONGROPE = FAMILIES["phi3 128k"].changes["rope_parameters"] | {
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2.1],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0, 16.0],
}
ATTENTION_SCALE = {"query_pre_attn_scalar": 16}
MODELS: dict[str, TinyFamily] = {
    "llama": TinyFamily(LlamaConfig, LlamaForCausalLM, WIDE | {"rope_parameters": LLAMA3_ROPE}),
    "llama tied": TinyFamily(LlamaConfig, LlamaForCausalLM, WIDE | {"tie_word_embeddings": True}),
}
_CHANGES: dict[str, dict[str, Any]] = {
    "mistral v0.1": {"sliding_window": None},
    "mixtral": {},
    "qwen2": {},
    "qwen2 tied, 5 KV heads": {"num_key_value_heads": 4},
    "qwen3": {},
    "phi3 4k": {},
    "phi3 128k": {"rope_parameters": LONGROPE},
    "phi4 mini": {},
    "gemma": {},
    "gemma2": ATTENTION_SCALE,
    "gemma3": ATTENTION_SCALE | {"num_hidden_layers": 7, "layer_types": None, "sliding_window_pattern": 6},
    "gemma3, scaled rope": ATTENTION_SCALE,
}
for _name, _changes in _CHANGES.items():
    _family = FAMILIES[_name]
    MODELS[_name] = TinyFamily(_family.config, _family.model, _family.changes | WIDE | _changes, _family.norm_middle)

LETTERS = random.Random(11).choices(range(256), k=60)
PROMPTS = [LETTERS[:1], LETTERS[3:20], LETTERS[20:]]


@pytest.fixture(scope="module", params=MODELS)
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One random model of each family in the hub's layout."""
    return save(request.param, tmp_path_factory.mktemp("hub"))


def save(name: str, folder: Path) -> Path:
    random_family(MODELS[name]).save_pretrained(folder)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def convert(model: ForeignModel, folder: Path) -> Manifest:
    with OutputFolder(folder) as output:
        return write_checkpoint(model, output, "tiny", "float32", lambda *_: None)


def weights(manifest: Manifest) -> dict[str, str]:
    return {name: file.sha256 for name, file in manifest.files.items() if name.endswith(".safetensors")}


def test_becomes_what_the_hub_folder_becomes(hub: Path, tmp_path: Path) -> None:
    theirs = convert(open_huggingface(hub), tmp_path / "hub")
    ours = convert(open_gguf(gguf_of(hub, tmp_path / "model.gguf")), tmp_path / "gguf")
    assert ours.architecture == theirs.architecture
    assert weights(ours) == weights(theirs)


def test_quantised_is_transformers_on_the_dequantised_weights(hub: Path, tmp_path: Path) -> None:
    model = open_gguf(gguf_of(hub, tmp_path / "model.gguf", GGMLQuantizationType.Q8_0))
    manifest = convert(model, tmp_path / "gguf")
    copy = Path(shutil.copytree(hub, tmp_path / "copy"))
    dequantised(copy, GGMLQuantizationType.Q8_0)
    assert weights(manifest) == weights(convert(open_huggingface(copy), tmp_path / "hub"))
    reference = AutoModelForCausalLM.from_pretrained(copy, **PLAIN_CODE)
    with LocalRanks(tmp_path / "gguf", 1) as ranks:
        answers = ranks.driver().generate(PROMPTS, 16, chunk_tokens=13)
    for answer in answers:
        assert_matches(answer, reference_logits(reference, answer.known).numpy(), 1e-3)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_every_type_is_what_the_gguf_package_makes_of_it(tmp_path: Path, kind: str) -> None:
    hub = save("mixtral", tmp_path / "hub")
    ours = convert(open_gguf(gguf_of(hub, tmp_path / "model.gguf", GGMLQuantizationType[kind])), tmp_path / "gguf")
    dequantised(hub, GGMLQuantizationType[kind])
    assert weights(ours) == weights(convert(open_huggingface(hub), tmp_path / "theirs"))


def test_a_window_is_mistral(tmp_path: Path) -> None:
    hub = save("mistral v0.1", tmp_path / "hub")
    path = gguf_of(hub, tmp_path / "model.gguf", entries={"llama.attention.sliding_window": 16})
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | {"sliding_window": 16}))
    architecture = open_gguf(path).architecture
    assert architecture.family == "mistral"
    assert architecture == open_huggingface(hub).architecture


def test_a_pattern_of_local_layers_may_be_a_list(tmp_path: Path) -> None:
    hub = save("gemma3", tmp_path / "hub")
    local = [True, False, False, True, True, False, True]
    path = gguf_of(hub, tmp_path / "model.gguf", entries={"gemma3.attention.sliding_window_pattern": local})
    variations = open_gguf(path).architecture.variations
    assert variations is not None
    assert variations.windows == tuple(16 if here else None for here in local)


def test_rope_that_only_gguf_has_words_for(tmp_path: Path) -> None:
    hub = save("llama tied", tmp_path / "hub")
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = open_gguf(gguf_of(hub, tmp_path / "linear.gguf", entries=linear)).architecture.rope
    assert rope.scaling == LinearScaling(kind="linear", factor=4.0)
    config = json.loads((hub / "config.json").read_text())
    rope_parameters = LLAMA3_ROPE | {"rope_theta": 1e4, "original_max_position_embeddings": 64}
    (hub / "config.json").write_text(json.dumps(config | {"rope_parameters": rope_parameters}))
    rope = open_gguf(gguf_of(hub, tmp_path / "factors.gguf")).architecture.rope
    assert isinstance(rope.scaling, LongRopeScaling), "factors of unknown origin are taken as they are"
    ours = inverse_frequencies(rope, 16)
    torch.testing.assert_close(
        ours, inverse_frequencies(open_huggingface(hub).architecture.rope, 16), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("name", "entries", "reason"),
    [
        ("qwen2", {"qwen2.attention.sliding_window": 16}, r"not supported: qwen2\.attention\.sliding_window"),
        ("qwen3", {"qwen3.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not supported"),
        ("qwen3", {"qwen3.rope.dimension_count": 8}, r"dimension_count is 8; only 16"),
        ("phi3 128k", {"phi3.rope.dimension_count": 12}, r"rope_factors_short\.weight is F32 \(8,\), not F32 \(6,\)"),
        ("phi3 4k", {"phi3.rope.scaling.attn_factor": 1.5}, r"not supported: phi3\.rope\.scaling\.attn_factor"),
        ("gemma2", {"gemma2.attention.sliding_window_pattern": [True]}, "not an array of 4 bool"),
        ("gemma2", {"gemma2.attn_logit_softcapping": math.inf}, r"attn_logit_softcapping is inf"),
        ("gemma3", {"gemma3.attention.scale": 0.1}, r"not supported: gemma3\.attention\.scale"),
        ("mixtral", {"llama.expert_used_count": 6}, "6 experts a token, of 5"),
        ("mixtral", {"llama.expert_count": 4}, r"ffn_gate_inp\.weight is \(5, 64\), not \(4, 64\)"),
        ("mixtral", {"llama.expert_count": 1 << 20}, "more than 20000 feed-forward networks"),
        ("mixtral", {"llama.expert_weights_scale": 2.0}, r"not supported: llama\.expert_weights_scale"),
    ],
)
def test_what_changes_the_maths_is_refused(tmp_path: Path, name: str, entries: dict[str, Any], reason: str) -> None:
    path = gguf_of(save(name, tmp_path / "hub"), tmp_path / "model.gguf", entries=entries)
    with pytest.raises(CheckpointError, match=reason):
        open_gguf(path)
