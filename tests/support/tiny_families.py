"""Tiny random models of every family but Llama, made with transformers' own classes."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from shard_worker.checkpoint.weight_shapes import Dtype
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
# No fused kernels in the reference: they do not know soft caps, or want widths of their own.
PLAIN_CODE = {"attn_implementation": "eager", "experts_implementation": "eager"}


@dataclass(frozen=True)
class TinyFamily:
    """transformers' classes, and how this model differs from `SHAPE`. Norms that are stored less one start at 0."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    changes: dict[str, Any] = field(default_factory=dict)
    norm_middle: float = 1.0


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [1.0, 2.0, 4.0, 8.0],
    "original_max_position_embeddings": 256,
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
}
# Caps low enough that they bend what they cap.
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
WINDOW = {"sliding_window": 16, "query_pre_attn_scalar": 12}

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
    "phi3 4k": TinyFamily(Phi3Config, Phi3ForCausalLM, {"hidden_size": 48, "sliding_window": 24}),
    "phi3 128k": TinyFamily(
        Phi3Config,
        Phi3ForCausalLM,
        {"hidden_size": 48, "rope_parameters": LONGROPE, "original_max_position_embeddings": 256},
    ),
    "phi4 mini": TinyFamily(
        Phi3Config,
        Phi3ForCausalLM,
        {"hidden_size": 48, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75}},
    ),
    "gemma": TinyFamily(GemmaConfig, GemmaForCausalLM, {"head_dim": 16}, 0.0),
    "gemma, 1 KV head": TinyFamily(GemmaConfig, GemmaForCausalLM, {"num_key_value_heads": 1}, 0.0),
    "gemma2": TinyFamily(Gemma2Config, Gemma2ForCausalLM, WINDOW | CAPS, 0.0),
    "gemma3": TinyFamily(Gemma3TextConfig, Gemma3ForCausalLM, WINDOW | {"sliding_window_pattern": 3}, 0.0),
    "gemma3, scaled rope": TinyFamily(
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        WINDOW
        | {"rope_parameters": GEMMA3_ROPE, "layer_types": ["full_attention", "sliding_attention"] * 2}
        | {"num_hidden_layers": 4},
        0.0,
    ),
    "mixtral": TinyFamily(MixtralConfig, MixtralForCausalLM, {"num_local_experts": 5}),
}


def random_family(family: TinyFamily, seed: int = 0) -> PreTrainedModel:
    """Return the model, float32 and in evaluation mode, with norms and biases that are not what they start as."""
    config = family.config(
        **(SHAPE | family.changes | {"attn_implementation": "eager", "experts_implementation": "eager"})
    )
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

    @property
    def has_experts(self) -> bool:
        """Whether the reference routes tokens to experts."""
        return hasattr(self.reference.config, "num_local_experts")


def make_family(folder: Path, name: str, dtype: Dtype = "float32") -> TinyFamilyModel:
    """Make the model that `FAMILIES` names, and convert it the way a user does."""
    reference = random_family(FAMILIES[name])
    return TinyFamilyModel(convert_tiny(folder, reference, dtype), reference)
