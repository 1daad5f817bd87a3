"""What all of the hub's families say alike in config.json, and how it becomes our architecture."""

import json
from typing import Any, ClassVar, Literal

from pydantic import ValidationError

from common.errors import CheckpointError
from common.manifest import MAX_FEED_FORWARDS, Architecture, Rope, Variations
from shard_worker.checkpoint.huggingface_names import LLAMA_NAMES, HubNames
from shard_worker.checkpoint.huggingface_rope import RopeParameters, RopeType, Section

LayerType = Literal["full_attention", "sliding_attention"]
AutoMap = dict[Literal["AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer"], str]
"""Custom code on the hub, from before transformers had the model. It is never run."""


HARMLESS_KEYS = frozenset(
    {
        "_from_model_config",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "gradient_checkpointing",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "max_sequence_length",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "tokenizer_class",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)
"""Keys that say nothing about what a forward pass computes."""


class HuggingFaceConfig(Section):
    """Every key that we understand in all families; a Literal is a choice of the maths that we support.

    A family that departs from Llama overrides `variations`; a key that a file leaves out has transformers' default.
    """

    default_theta: ClassVar[float] = 10_000.0
    rope_types: ClassVar[tuple[RopeType, ...]] = ("default", "linear", "dynamic", "llama3", "yarn")
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
                    "norm_eps": self.norm_eps,
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
    def norm_eps(self) -> float:
        """What is added to a norm's mean of squares, or to its variance."""
        return self.rms_norm_eps

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
        rope = self.rope_parameters or self.rope_scaling
        return max(self.max_position_embeddings, rope.extended_context if rope else 0)

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
        return rope.rope(theta, self.max_position_embeddings, self.context_length())


def problems(error: ValidationError) -> str:
    """Return each key that is at fault, its value and why, in one line."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))} = {json.dumps(e['input'], default=str)[:80]}: {e['msg']}"
        for e in error.errors()
    )
