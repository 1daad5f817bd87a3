"""Tiny random models of every family, made with transformers' own classes where it has them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DbrxConfig,
    DbrxForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
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

from common.manifest import read_manifest
from shard_worker.checkpoint.weight_shapes import Dtype
from tests.support.custom_models import BaichuanConfig, BaichuanModel, GrokConfig, GrokModel
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
    """The reference's classes, and how this model differs from `shape`. Norms that are stored less one start at 0."""

    config: type[PreTrainedConfig]
    model: type[PreTrainedModel]
    changes: dict[str, Any] = field(default_factory=dict)
    norm_middle: float = 1.0
    shape: dict[str, Any] = field(default_factory=lambda: SHAPE)


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

ORIGINAL = {"original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5} | ORIGINAL
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4} | ORIGINAL
WITHOUT_KV_HEADS = {key: value for key, value in SHAPE.items() if key not in ("num_key_value_heads", "head_dim")} | {
    "hidden_size": 40,
    "num_attention_heads": 5,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
WITHOUT_POSITIONS = {key: value for key, value in WITHOUT_KV_HEADS.items() if key != "max_position_embeddings"} | {
    "model_max_length": 1024
}
DBRX_SHAPE: dict[str, Any] = {
    "d_model": 48,
    "n_layers": 3,
    "n_heads": 6,
    "max_seq_len": 1024,
    "attn_config": {"kv_n_heads": 3, "clip_qkv": 1.0, "rope_theta": 5e5},
    "ffn_config": {"ffn_hidden_size": 53, "moe_num_experts": 7, "moe_top_k": 4},
    "rope_parameters": {"rope_theta": 5e5},
} | {key: SHAPE[key] for key in ("vocab_size", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")}
GROK = {
    "hidden_size": 48,
    "rms_norm_eps": 1e-5,
    "attn_output_multiplier": 0.5,
    "max_attn_value": 2.0,
    "embedding_multiplier_scale": 3.0,
    "output_multiplier_scale": 0.577,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": True,
}


def llama(**changes: Any) -> TinyFamily:
    """Return a Llama."""
    return TinyFamily(LlamaConfig, LlamaForCausalLM, changes)


FAMILIES = {
    "llama 1, open_llama": llama(hidden_size=40, num_attention_heads=5, num_key_value_heads=5, rms_norm_eps=1e-6),
    "llama 3.1": llama(rope_parameters=LLAMA3 | {"factor": 8.0}),
    "llama 3.2": llama(rope_parameters=LLAMA3 | {"factor": 32.0}, tie_word_embeddings=True),
    "codellama": llama(rope_parameters={"rope_theta": 1e6}),
    "tinyllamas": llama(num_key_value_heads=6, tie_word_embeddings=True, max_position_embeddings=256),
    "llama, linear rope": llama(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}),
    "llama, dynamic rope": llama(rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}),
    "llama, yarn": llama(rope_parameters=YARN),
    "llama, yarn with all keys": llama(
        rope_parameters=YARN
        | {"beta_fast": 4.0, "beta_slow": 0.25, "attention_factor": 1.1, "original_max_position_embeddings": 512}
    ),
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
    "mistral v0.2, v0.3": TinyFamily(
        MistralConfig, MistralForCausalLM, {"sliding_window": None, "rope_parameters": {"rope_theta": 1e6}}
    ),
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
    "dbrx": TinyFamily(DbrxConfig, DbrxForCausalLM, shape=DBRX_SHAPE),
    "grok-1": TinyFamily(GrokConfig, GrokModel, GROK, shape=SHAPE),
    "baichuan 7B": TinyFamily(BaichuanConfig, BaichuanModel, shape=WITHOUT_KV_HEADS),
    "baichuan2 7B": TinyFamily(BaichuanConfig, BaichuanModel, {"z_loss_weight": 0.0}, shape=WITHOUT_KV_HEADS),
    "baichuan 13B": TinyFamily(BaichuanConfig, BaichuanModel, shape=WITHOUT_POSITIONS),
}


def random_family(family: TinyFamily, seed: int = 0) -> PreTrainedModel:
    """Return the model, float32 and in evaluation mode, with norms and biases that are not what they start as."""
    config = family.config(
        **(family.shape | family.changes | {"attn_implementation": "eager", "experts_implementation": "eager"})
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
        variations = read_manifest(self.folder)[0].architecture.variations
        return variations is not None and variations.experts is not None


def make_family(folder: Path, name: str, dtype: Dtype = "float32") -> TinyFamilyModel:
    """Make the model that `FAMILIES` names, and convert it the way a user does."""
    reference = random_family(FAMILIES[name])
    return TinyFamilyModel(convert_tiny(folder, reference, dtype), reference)
