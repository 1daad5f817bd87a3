"""config.json files: a small one that most families understand, and those of well-known models in the hub's wording.

The latter are without keys that all of them have and that say nothing about the maths, such as torch_dtype.
"""

from typing import Any

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


def shaped(
    family: str,
    hidden: int,
    wide: int,
    layers: int,
    heads: int,
    kv: int | None,
    words: int,
    context: int,
    **rest: Any,
) -> dict[str, Any]:
    """Return a config with these sizes; without KV heads where `kv` is None, as files from before they existed."""
    sizes = {"hidden_size": hidden, "intermediate_size": wide, "num_hidden_layers": layers, "vocab_size": words}
    heads_of = {"num_attention_heads": heads} | ({} if kv is None else {"num_key_value_heads": kv})
    return {"model_type": family, "max_position_embeddings": context} | sizes | heads_of | rest


SILU = {"hidden_act": "silu", "tie_word_embeddings": False, "initializer_range": 0.02, "use_cache": True}
LLAMA2 = SILU | {"rms_norm_eps": 1e-5, "pretraining_tp": 1, "rope_scaling": None, "bos_token_id": 1, "eos_token_id": 2}
LLAMA3 = SILU | {"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "attention_bias": False, "attention_dropout": 0.0}
LLAMA31_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
MISTRAL = SILU | {"rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
QWEN = SILU | {"rms_norm_eps": 1e-6, "attention_dropout": 0.0, "use_sliding_window": False}
GEMMA = {"attention_bias": False, "attention_dropout": 0.0, "head_dim": 256, "rms_norm_eps": 1e-6, "eos_token_id": 1}
GEMMA2 = GEMMA | {
    "attn_logit_softcapping": 50.0,
    "cache_implementation": "hybrid",
    "final_logit_softcapping": 30.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
PHI3 = SILU | {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3",
    },
    "embd_pdrop": 0.0,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
BAICHUAN = SILU | {
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_baichuan.BaichuanConfig",
        "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
    },
    "_from_model_config": True,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
}

HUB_CONFIGS: dict[str, dict[str, Any]] = {
    "huggyllama/llama-7b": shaped("llama", 4096, 11008, 32, 32, None, 32000, 2048, **SILU)
    | {"max_sequence_length": 2048, "rms_norm_eps": 1e-6, "pad_token_id": 0},
    "openlm-research/open_llama_7b": shaped("llama", 4096, 11008, 32, 32, None, 32000, 2048, **SILU)
    | {"rms_norm_eps": 1e-6, "pad_token_id": 0},
    "meta-llama/Llama-2-70b-hf": shaped("llama", 8192, 28672, 80, 64, 8, 32000, 4096, **LLAMA2),
    "codellama/CodeLlama-34b-Python-hf": shaped("llama", 8192, 22016, 48, 64, 8, 32000, 16384, **LLAMA2)
    | {"rope_theta": 1000000},
    "meta-llama/Meta-Llama-3-8B": shaped("llama", 4096, 14336, 32, 32, 8, 128256, 8192, **LLAMA3)
    | {"rope_scaling": None, "pretraining_tp": 1},
    "meta-llama/Llama-3.1-8B": shaped("llama", 4096, 14336, 32, 32, 8, 128256, 131072, **LLAMA3)
    | {"mlp_bias": False, "pretraining_tp": 1, "rope_scaling": LLAMA31_ROPE, "eos_token_id": [128001, 128008, 128009]},
    "meta-llama/Llama-3.2-1B": shaped("llama", 2048, 8192, 16, 32, 8, 128256, 131072, **LLAMA3)
    | {"head_dim": 64, "mlp_bias": False, "rope_scaling": LLAMA31_ROPE | {"factor": 32.0}, "tie_word_embeddings": True},
    "mistralai/Mistral-7B-v0.1": shaped("mistral", 4096, 14336, 32, 32, 8, 32000, 32768, **MISTRAL)
    | {"rope_theta": 10000.0, "sliding_window": 4096},
    "mistralai/Mistral-7B-Instruct-v0.2": shaped("mistral", 4096, 14336, 32, 32, 8, 32000, 32768, **MISTRAL)
    | {"rope_theta": 1000000.0, "sliding_window": None, "attention_dropout": 0.0},
    "mistralai/Mixtral-8x7B-v0.1": shaped("mixtral", 4096, 14336, 32, 32, 8, 32000, 32768, **MISTRAL)
    | {
        "attention_dropout": 0.0,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
    },
    "Qwen/Qwen2.5-7B": shaped("qwen2", 3584, 18944, 28, 28, 4, 152064, 131072, **QWEN)
    | {"max_window_layers": 28, "rope_theta": 1000000.0, "sliding_window": 131072, "use_mrope": False},
    "Qwen/Qwen3-8B": shaped("qwen3", 4096, 12288, 36, 32, 8, 151936, 40960, **QWEN)
    | {"attention_bias": False, "head_dim": 128, "max_window_layers": 36, "rope_scaling": None}
    | {"rope_theta": 1000000, "sliding_window": None},
    "google/gemma-2b": shaped("gemma", 2048, 16384, 18, 8, 1, 256000, 8192, **GEMMA)
    | {"hidden_act": "gelu", "hidden_activation": None, "rope_scaling": None, "rope_theta": 10000.0},
    "google/gemma-2-9b": shaped("gemma2", 3584, 14336, 42, 16, 8, 256000, 8192, **GEMMA2)
    | {"query_pre_attn_scalar": 256, "sliding_window_size": 4096},
    "google/gemma-3-1b-it": shaped("gemma3_text", 1152, 6912, 26, 4, 1, 262144, 32768, **GEMMA)
    | {
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "eos_token_id": [1, 106],
        "final_logit_softcapping": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
    },
    "microsoft/Phi-3-mini-4k-instruct": shaped("phi3", 3072, 8192, 32, 32, 32, 32064, 4096, **PHI3)
    | {"rope_scaling": None, "sliding_window": 2047},
    "databricks/dbrx-base": {
        "model_type": "dbrx",
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "model_type": "", "rope_theta": 500000},
        "auto_map": {"AutoConfig": "configuration_dbrx.DbrxConfig", "AutoModelForCausalLM": "modeling_dbrx.Dbrx"},
        "d_model": 6144,
        "emb_pdrop": 0.0,
        "ffn_config": {
            "ffn_hidden_size": 10752,
            "model_type": "",
            "moe_jitter_eps": 0.01,
            "moe_loss_weight": 0.05,
            "moe_num_experts": 16,
            "moe_top_k": 4,
        },
        "max_seq_len": 32768,
        "n_heads": 48,
        "n_layers": 40,
        "output_router_logits": False,
        "resid_pdrop": 0.0,
        "router_aux_loss_coef": 0.05,
        "tie_word_embeddings": False,
        "vocab_size": 100352,
    },
    # Its class is custom code, and the file has no model_type.
    "hpcai-tech/grok-1": {
        key: value
        for key, value in shaped("grok-1", 6144, 32768, 64, 48, 8, 131072, 8192).items()
        if key != "model_type"
    }
    | {
        "architectures": ["Grok1ModelForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_grok1.Grok1Config",
            "AutoModel": "modeling_grok1.Grok1Model",
            "AutoModelForCausalLM": "modeling_grok1.Grok1ModelForCausalLM",
        },
        "attn_output_multiplier": 0.08838834764831845,
        "embedding_multiplier_scale": 78.38367176906169,
        "output_multiplier_scale": 0.5773502691896257,
        "max_attn_value": 30.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "num_experts_per_tok": 2,
        "num_experts": 8,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    },
    "baichuan-inc/Baichuan-7B": shaped("baichuan", 4096, 11008, 32, 32, None, 64000, 4096, **BAICHUAN),
    "baichuan-inc/Baichuan2-7B-Base": shaped("baichuan", 4096, 11008, 32, 32, None, 125696, 4096, **BAICHUAN)
    | {"model_max_length": 4096, "z_loss_weight": 0},
    "baichuan-inc/Baichuan-13B-Base": {
        key: value
        for key, value in shaped("baichuan", 5120, 13696, 40, 40, None, 64000, 0, **BAICHUAN).items()
        if key != "max_position_embeddings"
    }
    | {"model_max_length": 4096, "gradient_checkpointing": [False]},
}
