"""Tiny random models of every family but Llama, made with transformers' own classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from shard_worker.checkpoint.layout import Dtype
from tests.support.tiny_model import END_OF_TURN_ID, convert_tiny

# Heads and columns divide by neither 2 nor 3 where they need not.
SHAPE: dict[str, Any] = {
    "hidden_size": 42,
    "intermediate_size": 53,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "vocab_size": 263,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": END_OF_TURN_ID,
    "pad_token_id": None,
}


@dataclass(frozen=True)
class TinyFamily:
    """transformers' classes, and how this model differs from `SHAPE`. Norms that are stored less one start at 0."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    changes: dict[str, Any] = field(default_factory=dict)
    norm_middle: float = 1.0


FAMILIES = {
    "qwen2": TinyFamily(Qwen2Config, Qwen2ForCausalLM, {"hidden_size": 48}),
    "qwen2 tied, 5 KV heads": TinyFamily(
        Qwen2Config,
        Qwen2ForCausalLM,
        {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5, "tie_word_embeddings": True},
    ),
    "qwen2 with late windows": TinyFamily(
        Qwen2Config,
        Qwen2ForCausalLM,
        {"hidden_size": 48, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen3": TinyFamily(Qwen3Config, Qwen3ForCausalLM, {"rope_parameters": {"rope_theta": 1e6}}),
    "qwen3, 1 KV head": TinyFamily(Qwen3Config, Qwen3ForCausalLM, {"num_key_value_heads": 1, "head_dim": 12}),
    "mistral v0.1": TinyFamily(MistralConfig, MistralForCausalLM, {"sliding_window": 16}),
}


def random_family(family: TinyFamily, seed: int = 0) -> PreTrainedModel:
    """Return the model, float32 and in evaluation mode, with norms and biases that are not what they start as."""
    config = family.config(**(SHAPE | family.changes | {"attn_implementation": "eager"}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = family.model(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                middle = 0.0 if name.endswith("bias") else family.norm_middle
                torch.nn.init.uniform_(parameter, middle - 0.5, middle + 0.5)
    model.train(False)
    return model


@dataclass(frozen=True)
class TinyFamilyModel:
    """The checkpoint's folder, and the model it was made of."""

    folder: Path
    reference: PreTrainedModel


def make_family(folder: Path, name: str, dtype: Dtype = "float32") -> TinyFamilyModel:
    """Make the model that `FAMILIES` names, and convert it the way a user does."""
    reference = random_family(FAMILIES[name])
    return TinyFamilyModel(convert_tiny(folder, reference, dtype), reference)
