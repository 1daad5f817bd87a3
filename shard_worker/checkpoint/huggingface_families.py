"""What each of the hub's model families adds to config.json, and what of it departs from Llama.

The formulas are those of transformers' own classes, whose defaults a missing key has. Where such a default is a shape
of one certain model, as with KV heads, the key must be there.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from common.manifest import Variations
from shard_worker.checkpoint.huggingface_base import AutoMap, HuggingFaceConfig, LayerType
from shard_worker.checkpoint.huggingface_custom import BaichuanConfig, GrokConfig
from shard_worker.checkpoint.huggingface_experts import DbrxConfig, MixtralConfig
from shard_worker.checkpoint.huggingface_names import GEMMA2_NAMES, GEMMA_NAMES, PHI3_NAMES, HubNames
from shard_worker.checkpoint.huggingface_rope import RopeParameters, RopeType


class LlamaConfig(HuggingFaceConfig):
    """Llama 1 to 3.2 (Touvron et al. 2023) and what is built alike."""

    model_type: Literal["llama"]
    hidden_act: Literal["silu"] = "silu"
    rope_interleaved: Literal[False] = False
    sliding_window: None = None


class MistralConfig(HuggingFaceConfig):
    """Mistral 7B (Jiang et al. 2023): a sliding window in v0.1, none since."""

    model_type: Literal["mistral"]
    num_key_value_heads: int | None
    hidden_act: Literal["silu"] = "silu"
    sliding_window: int | None = 4096

    def variations(self) -> Variations | None:
        """Return the window; without one Mistral is plain Llama."""
        windows = self.windows(self.sliding_window, None)
        if not any(windows):
            return None
        return Variations.model_validate(self.llama_variations() | {"windows": windows})


class _QwenConfig(HuggingFaceConfig):
    num_key_value_heads: int | None
    hidden_act: Literal["silu"] = "silu"
    use_sliding_window: bool = False
    sliding_window: int | None = 4096
    max_window_layers: int = 28
    layer_types: list[LayerType] | None = None
    use_mrope: Literal[False] = False

    def qwen_windows(self) -> tuple[int | None, ...]:
        """Return each layer's window: of layers past `max_window_layers`, where windows are used at all."""
        later: list[LayerType] = [
            "sliding_attention" if index >= self.max_window_layers else "full_attention"
            for index in range(self.num_hidden_layers)
        ]
        full: list[LayerType] = ["full_attention"] * self.num_hidden_layers
        if not self.use_sliding_window:
            return self.windows(None, self.layer_types or full)
        return self.windows(self.sliding_window, self.layer_types or (later if self.sliding_window else full))


class Qwen2Config(_QwenConfig):
    """Qwen 2 and 2.5 (Yang et al. 2024): biases of queries, keys and values."""

    model_type: Literal["qwen2"]

    def variations(self) -> Variations:
        """Return biases and windows."""
        changes = {"qkv_bias": True, "windows": self.qwen_windows()}
        return Variations.model_validate(self.llama_variations() | changes)


class Qwen3Config(_QwenConfig):
    """Qwen 3 (Yang et al. 2025): norms of queries and keys instead."""

    model_type: Literal["qwen3"]
    head_dim: int | None = 128

    def variations(self) -> Variations:
        """Return norms and windows."""
        changes = {"qk_norm": True, "windows": self.qwen_windows()}
        return Variations.model_validate(self.llama_variations() | changes)


class Phi3Config(HuggingFaceConfig):
    """Phi 3 to 4 mini (Abdin et al. 2024): fused matrices, partly rotated heads, LongRoPE.

    LongRoPE has other frequencies past the original context, for all of a text's positions at once: keys that are
    cached would be wrong from there on. The context served ends before.
    """

    rope_types: ClassVar[tuple[RopeType, ...]] = ("default", "longrope")
    names: ClassVar[HubNames] = PHI3_NAMES

    model_type: Literal["phi3"]
    hidden_act: Literal["silu"] = "silu"
    sliding_window: int | None = None
    original_max_position_embeddings: int = 4096
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    lm_head_bias: Literal[False] = False
    full_attn_mod: Literal[1] = 1
    interpolate_factor: Literal[1] = 1
    embd_pdrop: float = 0.0  # this and the next one are of training
    resid_pdrop: float = 0.0
    auto_map: AutoMap = Field(default_factory=dict)

    def context_length(self) -> int:
        """Return the context of the frequencies that are stored."""
        rope = self.rope_parameters or self.rope_scaling
        if rope is None or rope.kind != "longrope":
            return self.max_position_embeddings
        original = rope.original_max_position_embeddings or self.original_max_position_embeddings
        return min(original, self.max_position_embeddings)

    def variations(self) -> Variations:
        """Return windows and the rotated part of a head."""
        rope = self.rope_parameters or self.rope_scaling
        factor = (rope.partial_rotary_factor if rope else None) or self.partial_rotary_factor
        changes = {"windows": self.windows(self.sliding_window, None), "rotary_dim": int(self.head_size * factor)}
        return Variations.model_validate(self.llama_variations() | changes)


class GemmaConfig(HuggingFaceConfig):
    """Gemma 1 (Gemma Team 2024): GELU, scaled embeddings, heads of any size, norms that are stored less one."""

    names: ClassVar[HubNames] = GEMMA_NAMES

    model_type: Literal["gemma"]
    num_key_value_heads: int | None
    # In this family "gelu" has always meant the tanh approximation.
    hidden_act: Literal["gelu", "gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    hidden_activation: Literal["gelu_pytorch_tanh"] | None = None
    head_dim: int | None = 256
    tie_word_embeddings: bool = True
    use_bidirectional_attention: Literal[False] | None = None

    def variations(self) -> Variations:
        """Return activation and scale."""
        return Variations.model_validate(self.llama_variations() | self.gemma_variations())

    def gemma_variations(self) -> dict[str, Any]:
        """Return what all Gemmas have in common."""
        return {"activation": "gelu_tanh", "embedding_scale": max(0, self.hidden_size) ** 0.5}


class _LaterGemmaConfig(GemmaConfig):
    names: ClassVar[HubNames] = GEMMA2_NAMES

    hidden_act: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    query_pre_attn_scalar: float = Field(default=256, gt=0)
    sliding_window: int | None = 4096
    layer_types: list[LayerType] | None = None

    def gemma_variations(self) -> dict[str, Any]:
        """Return what all Gemmas have in common since the second."""
        return super().gemma_variations() | {
            "output_norms": True,
            "attention_scale": self.query_pre_attn_scalar**-0.5,
            "windows": self.windows(self.sliding_window, self.layer_types or self.every_nth_global(2)),
        }

    def every_nth_global(self, nth: int) -> list[LayerType]:
        """Return types of which each nth is full attention, the others have windows."""
        return [
            "sliding_attention" if (index + 1) % nth else "full_attention" for index in range(self.num_hidden_layers)
        ]


class Gemma2Config(_LaterGemmaConfig):
    """Gemma 2 (Gemma Team 2024): norms on outputs too, soft caps, a window on every other layer."""

    model_type: Literal["gemma2"]  # type: ignore[assignment]
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0
    sliding_window_size: int | None = None  # the window again, in some of the hub's files

    @model_validator(mode="after")
    def _has_one_window(self) -> "Gemma2Config":
        if self.sliding_window_size not in (None, self.sliding_window):
            raise ValueError(f"sliding_window_size {self.sliding_window_size}, sliding_window {self.sliding_window}")
        return self

    def gemma_variations(self) -> dict[str, Any]:
        """Add the caps."""
        return super().gemma_variations() | {
            "attention_soft_cap": self.attn_logit_softcapping,
            "logit_soft_cap": self.final_logit_softcapping,
        }


class Gemma3Config(_LaterGemmaConfig):
    """Gemma 3, text only (Gemma Team 2025): query and key norms, and a rope of their own for layers with a window."""

    default_theta: ClassVar[float] = 1_000_000.0
    rope_types: ClassVar[tuple[RopeType, ...]] = ("default", "linear")

    model_type: Literal["gemma3_text"]  # type: ignore[assignment]
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: None = None
    sliding_window_pattern: int = Field(default=6, ge=1)
    rope_local_base_freq: float | None = None
    local_rope_parameters: RopeParameters | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_rope_a_key(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Since transformers 5, rope_parameters has one rope for each type of layer."""
        ropes = fields.get("rope_parameters")
        if isinstance(ropes, dict) and ropes.keys() == {"full_attention", "sliding_attention"}:
            local = {"rope_parameters": ropes["full_attention"], "local_rope_parameters": ropes["sliding_attention"]}
            fields = fields | local
        if (pattern := fields.get("_sliding_window_pattern")) is not None:
            fields = {key: value for key, value in fields.items() if key != "_sliding_window_pattern"}
            fields |= {"sliding_window_pattern": pattern}
        return fields

    def gemma_variations(self) -> dict[str, Any]:
        """Add the norms, and which layers are local."""
        local = self.rope_of(self.local_rope_parameters or RopeParameters(), self.rope_local_base_freq, 10_000.0)
        types = self.layer_types or self.every_nth_global(self.sliding_window_pattern)
        return super().gemma_variations() | {
            "qk_norm": True,
            "logit_soft_cap": self.final_logit_softcapping,
            "windows": self.windows(self.sliding_window, types),
            "local_rope": local,
        }


FAMILIES: dict[str, type[HuggingFaceConfig]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "phi3": Phi3Config,
    "gemma": GemmaConfig,
    "gemma2": Gemma2Config,
    "gemma3_text": Gemma3Config,
    "mixtral": MixtralConfig,
    "dbrx": DbrxConfig,
    "grok-1": GrokConfig,
    "baichuan": BaichuanConfig,
}
"""By model_type."""
