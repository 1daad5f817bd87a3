"""config.json of the hub's families with experts that transformers has classes for: Mixtral and DBRX."""

from typing import Any, ClassVar, Literal

from pydantic import AliasPath, Field, model_validator

from common.manifest import Variations
from shard_worker.checkpoint.huggingface_base import HARMLESS_KEYS, AutoMap, HuggingFaceConfig
from shard_worker.checkpoint.huggingface_names import DBRX_NAMES, MIXTRAL_NAMES, HubNames
from shard_worker.checkpoint.huggingface_rope import Section


class MixtralConfig(HuggingFaceConfig):
    """Mixtral 8x7B (Jiang et al. 2024): experts instead of one feed-forward network."""

    default_theta: ClassVar[float] = 1_000_000.0
    names: ClassVar[HubNames] = MIXTRAL_NAMES

    model_type: Literal["mixtral"]
    num_key_value_heads: int | None
    hidden_act: Literal["silu"] = "silu"
    sliding_window: int | None = None
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    output_router_logits: bool = False  # this and the next two are of training
    router_aux_loss_coef: float = 0.0
    router_jitter_noise: float = 0.0

    def variations(self) -> Variations:
        """Return the experts, and windows."""
        changes = {
            "experts": {"count": self.num_local_experts, "per_token": self.num_experts_per_tok},
            "windows": self.windows(self.sliding_window, None),
        }
        return Variations.model_validate(self.llama_variations() | changes)


class _DbrxSection(Section):
    """Old versions of transformers wrote everything that any config can hold into these sections, too."""

    clutter: ClassVar[frozenset[str]] = HARMLESS_KEYS | {
        "hidden_size",
        "is_decoder",
        "is_encoder_decoder",
        "max_length",
        "min_length",
        "model_type",
        "temperature",
        "tie_word_embeddings",
        "top_k",
        "top_p",
    }

    @model_validator(mode="before")
    @classmethod
    def _without_clutter(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        return {key: value for key, value in fields.items() if key not in cls.clutter}


class DbrxAttention(_DbrxSection):
    """attn_config."""

    attn_pdrop: float = 0.0  # of training
    clip_qkv: float | None = Field(default=None, gt=0)
    kv_n_heads: int
    rope_theta: float | None = None


class DbrxActivation(Section):
    """ffn_act_fn."""

    name: Literal["silu"] = "silu"


class DbrxFeedForward(_DbrxSection):
    """ffn_config. Weights of the chosen experts are divided by their 1-norm, or not at all."""

    ffn_act_fn: DbrxActivation | None = None
    ffn_hidden_size: int
    moe_num_experts: int
    moe_top_k: int
    moe_normalize_expert_weights: float | None = Field(default=1.0, ge=1, le=1)
    uniform_expert_assignment: Literal[False] = False
    moe_jitter_eps: float | None = None  # this and the next one are of training
    moe_loss_weight: float = 0.0


class DbrxConfig(HuggingFaceConfig):
    """DBRX (Databricks 2024): layer norms, clipped queries, keys and values, 16 experts of which 4 compute."""

    names: ClassVar[HubNames] = DBRX_NAMES

    model_type: Literal["dbrx"]
    hidden_size: int = Field(validation_alias="d_model")
    intermediate_size: int = Field(validation_alias=AliasPath("ffn_config", "ffn_hidden_size"))
    num_hidden_layers: int = Field(validation_alias="n_layers")
    num_attention_heads: int = Field(validation_alias="n_heads")
    num_key_value_heads: int | None = Field(validation_alias=AliasPath("attn_config", "kv_n_heads"))
    max_position_embeddings: int = Field(validation_alias="max_seq_len")
    rope_theta: float | None = Field(default=None, validation_alias=AliasPath("attn_config", "rope_theta"))
    head_dim: None = None
    rms_norm_eps: None = None  # type: ignore[assignment]
    hidden_act: Literal["silu"] = "silu"
    tie_word_embeddings: Literal[False] = False
    attn_config: DbrxAttention
    ffn_config: DbrxFeedForward
    auto_map: AutoMap = Field(default_factory=dict)
    emb_pdrop: float = 0.0  # this one and the next three are of training
    resid_pdrop: float = 0.0
    output_router_logits: bool = False
    router_aux_loss_coef: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _kv_heads_once(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Since transformers 5 the file repeats the number of attn_config."""
        attention = fields.get("attn_config")
        if isinstance(attention, dict) and "num_key_value_heads" in fields:
            if fields["num_key_value_heads"] != attention.get("kv_n_heads"):
                raise ValueError("num_key_value_heads is not attn_config.kv_n_heads")
            return {key: value for key, value in fields.items() if key != "num_key_value_heads"}
        return fields

    @property
    def norm_eps(self) -> float:
        """PyTorch's own: the class has no key for it."""
        return 1e-5

    def variations(self) -> Variations:
        """Return norms, clip and experts."""
        ffn = self.ffn_config
        changes = {
            "layer_norms": True,
            "qkv_clip": self.attn_config.clip_qkv,
            "experts": {
                "count": ffn.moe_num_experts,
                "per_token": ffn.moe_top_k,
                "normalized": ffn.moe_normalize_expert_weights is not None,
            },
        }
        return Variations.model_validate(self.llama_variations() | changes)
