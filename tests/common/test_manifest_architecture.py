"""What a manifest states about a decoder: a Llama's is what it always was, all others state everything."""

from typing import Any

import pytest
from pydantic import ValidationError

from common.manifest import Architecture, Manifest
from tests.support.tiny_manifest import LLAMA_VARIATIONS as PLAIN
from tests.support.tiny_manifest import tiny_manifest


def architecture(**shape: Any) -> Architecture:
    return Manifest.model_validate(tiny_manifest(shape)).architecture


def test_a_llamas_manifest_says_nothing_new() -> None:
    written = architecture(norm_eps=0.5).model_dump_json()
    assert written == (
        '{"family":"llama","layers":1,"hidden_size":8,"intermediate_size":8,"query_heads":2,"kv_heads":1,"head_dim":4,'
        '"vocabulary_size":16,"context_length":32,"norm_eps":0.5,"rope":{"theta":10000.0,"scaling":null},'
        '"tied_embeddings":true}'
    )
    assert architecture().departures == ()


def test_variations_survive_being_written() -> None:
    windowed = architecture(family="mistral", variations=PLAIN | {"windows": [16]})
    assert Architecture.model_validate_json(windowed.model_dump_json()) == windowed
    assert windowed.departures == ("sliding windows",)


def test_what_is_newer_than_a_checkpoint_is_left_out_of_it() -> None:
    plain = architecture(family="mixtral", variations=PLAIN | {"experts": {"count": 4, "per_token": 2}})
    assert plain.variations is not None
    assert plain.variations.model_dump(mode="json") == PLAIN | {"experts": {"count": 4, "per_token": 2}}
    changes = {"layer_norms": True, "qkv_clip": 8.0, "logit_scale": 0.5, "alibi": True}
    changed = architecture(family="dbrx", variations=PLAIN | changes)
    assert Architecture.model_validate_json(changed.model_dump_json()) == changed


def test_stating_what_llama_does_is_no_departure() -> None:
    assert architecture(family="phi3", variations=PLAIN).departures == ()


@pytest.mark.parametrize(
    ("changes", "departure"),
    [
        ({"qkv_bias": True}, "query, key and value biases"),
        ({"qk_norm": True}, "query and key norms"),
        ({"output_norms": True}, "output norms"),
        ({"activation": "gelu_tanh"}, "activation gelu_tanh"),
        ({"embedding_scale": 2.0}, "embedding scale"),
        ({"rotary_dim": 2}, "partly rotated heads"),
        ({"attention_scale": 0.25}, "attention scale"),
        ({"attention_soft_cap": 50.0}, "soft caps"),
        ({"logit_soft_cap": 30.0}, "soft caps"),
        ({"experts": {"count": 4, "per_token": 2}}, "experts"),
        ({"layer_norms": True}, "layer norms"),
        ({"qkv_clip": 8.0}, "clipped queries, keys and values"),
        ({"logit_scale": 0.5}, "logit scale"),
        ({"alibi": True}, "linear biases"),
    ],
)
def test_every_variation_is_a_departure(changes: dict[str, Any], departure: str) -> None:
    assert architecture(family="gemma2", variations=PLAIN | changes).departures == (departure,)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({"family": "qwen2"}, "a qwen2 states its variations"),
        ({"variations": {name: value for name, value in PLAIN.items() if name != "qk_norm"}}, "qk_norm"),
        ({"variations": PLAIN | {"parallel": True}}, "parallel"),
        ({"variations": PLAIN | {"windows": [16, None]}}, "2 windows for 1 layers"),
        ({"variations": PLAIN | {"rotary_dim": 3}}, "rotary_dim 3 is odd"),
        ({"variations": PLAIN | {"rotary_dim": 6}}, "rotary_dim 6 is odd or more than head_dim 4"),
        ({"variations": PLAIN | {"experts": {"count": 2, "per_token": 3}}}, "3 experts a token, of 2"),
        (
            {"rope": {"theta": 1e4, "scaling": {"kind": "longrope", "factors": [1.0], "attention_factor": 1.0}}},
            "1 longrope factors for 2 frequencies",
        ),
    ],
)
def test_what_makes_no_decoder_is_refused(shape: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        architecture(**shape)
