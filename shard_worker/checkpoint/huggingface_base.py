"""What all of the hub's families say alike in config.json, and how it becomes our architecture."""

import json
import math
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import CheckpointError
from common.manifest import (
    MAX_FEED_FORWARDS,
    Architecture,
    LinearScaling,
    LongRopeScaling,
    Rope,
    RopeScaling,
    Variations,
)
from shard_worker.checkpoint.huggingface_names import LLAMA_NAMES, HubNames

LayerType = Literal["full_attention", "sliding_attention"]
RopeType = Literal["default", "llama3", "linear", "longrope", "su"]


class Section(BaseModel):
    """Refuses keys it does not know and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class RopeParameters(Section):
    """rope_scaling, or since transformers 5 rope_parameters. Each family says which types it knows."""

    rope_type: RopeType | None = None
    type: RopeType | None = None
    rope_theta: float | None = None
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    short_factor: list[float] | None = None
    long_factor: list[float] | None = None
    attention_factor: float | None = None
    partial_rotary_factor: float | None = Field(default=None, gt=0, le=1)

    @property
    def kind(self) -> RopeType:
        """The type, under whichever key. LongRoPE was called "su" at first."""
        stated = self.rope_type or self.type or "default"
        return "longrope" if stated == "su" else stated


class HuggingFaceConfig(Section):
    """Every key that we understand in all families; a Literal is a choice of the maths that we support.

    A family that departs from Llama overrides `variations`; a key that a file leaves out has transformers' default.
    """

    default_theta: ClassVar[float] = 10_000.0
    rope_types: ClassVar[tuple[RopeType, ...]] = ("default", "llama3")
    names: ClassVar[HubNames] = LLAMA_NAMES

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    hidden_act: Literal["silu", "gelu", "gelu_pytorch_tanh"] = "silu"
    tie_word_embeddings: bool = False
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    is_encoder_decoder: Literal[False] = False
    rope_theta: float | None = None
    rope_scaling: RopeParameters | None = None
    rope_parameters: RopeParameters | None = None
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None  # huggingface_int4 reads it

    def architecture(self) -> Architecture:
        """Return the architecture. Raises CheckpointError when the numbers do not make one."""
        if self.num_attention_heads < 1:
            raise CheckpointError("config.json: num_attention_heads is not positive")
        if self.num_hidden_layers > MAX_FEED_FORWARDS:
            raise CheckpointError(f"config.json: num_hidden_layers = {self.num_hidden_layers}")
        try:
            variations = self.variations()
            return Architecture.model_validate(
                {
                    "family": "llama" if variations is None else self.model_type.removesuffix("_text"),
                    "layers": self.num_hidden_layers,
                    "hidden_size": self.hidden_size,
                    "intermediate_size": self.intermediate_size,
                    "query_heads": self.num_attention_heads,
                    "kv_heads": self.kv_heads,
                    "head_dim": self.head_size,
                    "vocabulary_size": self.vocab_size,
                    "context_length": self.context_length(),
                    "norm_eps": self.rms_norm_eps,
                    "rope": self.rope(),
                    "tied_embeddings": self.tie_word_embeddings,
                    "variations": variations,
                }
            )
        except ValidationError as error:
            raise CheckpointError(f"config.json: {problems(error)}") from error

    def variations(self) -> Variations | None:
        """Return in what the model departs from Llama, None for nothing. Raises CheckpointError as `architecture`."""
        return None

    def llama_variations(self) -> dict[str, Any]:
        """Return what `Variations` states of a plain Llama, for a family to change."""
        return {
            "qkv_bias": False,
            "qk_norm": False,
            "output_norms": False,
            "activation": "silu",
            "embedding_scale": 1.0,
            "rotary_dim": self.head_size,
            "attention_scale": self.head_size**-0.5 if self.head_size > 0 else 0.0,
            "attention_soft_cap": None,
            "logit_soft_cap": None,
            "windows": (None,) * max(0, self.num_hidden_layers),
            "local_rope": None,
            "experts": None,
        }

    @property
    def kv_heads(self) -> int:
        """How many there are: as many as query heads where nothing is said."""
        return self.num_key_value_heads if self.num_key_value_heads is not None else self.num_attention_heads

    @property
    def head_size(self) -> int:
        """head_dim, or what the heads' shares of the width are."""
        return self.head_dim if self.head_dim is not None else self.hidden_size // self.num_attention_heads

    def context_length(self) -> int:
        """Return how many positions the model serves."""
        return self.max_position_embeddings

    def windows(self, window: int | None, layer_types: list[LayerType] | None) -> tuple[int | None, ...]:
        """Return each layer's window; one that no context outgrows is none. Raises CheckpointError for no such list."""
        types = layer_types or ["sliding_attention"] * self.num_hidden_layers
        if len(types) != self.num_hidden_layers:
            raise CheckpointError(f"config.json: {len(types)} layer_types for {self.num_hidden_layers} layers")
        if layer_types and window is None and "sliding_attention" in layer_types:
            raise CheckpointError("config.json: layer_types has sliding_attention, but there is no sliding_window")
        seen = window if window is not None and window < self.context_length() else None
        return tuple(seen if kind == "sliding_attention" else None for kind in types)

    def rope(self) -> Rope:
        """Return the rope. Raises CheckpointError when it is said twice, or of a type the family does not have."""
        if self.rope_scaling and self.rope_parameters:
            raise CheckpointError("config.json: rope_scaling and rope_parameters are both given")
        return self.rope_of(self.rope_parameters or self.rope_scaling or RopeParameters(), self.rope_theta)

    def rope_of(self, rope: RopeParameters, outer_theta: float | None, default_theta: float | None = None) -> Rope:
        """Return the rope that these parameters describe; `outer_theta` is what stands beside them."""
        thetas = {theta for theta in (outer_theta, rope.rope_theta) if theta is not None}
        if len(thetas) > 1:
            raise CheckpointError(f"config.json: rope_theta is given as {sorted(thetas)}")
        theta = thetas.pop() if thetas else default_theta or self.default_theta
        if rope.kind not in self.rope_types:
            raise CheckpointError(f"config.json: rope type {rope.kind!r} is not supported for {self.model_type}")
        if rope.partial_rotary_factor not in (None, 1) and "partial_rotary_factor" not in type(self).model_fields:
            raise CheckpointError(f"config.json: partial_rotary_factor = {rope.partial_rotary_factor} is not supported")
        fields: dict[str, Any] = {"factor": rope.factor}
        match rope.kind:
            case "default":
                return Rope(theta=theta)
            case "linear":
                return Rope(theta=theta, scaling=LinearScaling(kind="linear", **fields))
            case "llama3":
                fields |= {
                    "low_frequency_factor": rope.low_freq_factor,
                    "high_frequency_factor": rope.high_freq_factor,
                    "original_context_length": rope.original_max_position_embeddings,
                }
                return Rope(theta=theta, scaling=RopeScaling(kind="llama3", **fields))
            case "longrope" | "su":
                return Rope(theta=theta, scaling=self._short_longrope(rope))

    def _short_longrope(self, rope: RopeParameters) -> LongRopeScaling:
        """Return the factors of contexts up to the original length; `context_length` sees to it that none is longer."""
        original = self.context_length()
        factor = rope.factor or self.max_position_embeddings / original
        attention = rope.attention_factor
        if attention is None:
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        fields: dict[str, Any] = {"factors": rope.short_factor, "attention_factor": attention}
        return LongRopeScaling(kind="longrope", **fields)


def problems(error: ValidationError) -> str:
    """Return each key that is at fault, its value and why, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))} = {json.dumps(e['input'], default=str)[:80]}: {e['msg']}"
        for e in error.errors()
    )
