"""config.json of the hub's llama and mistral models as our architecture: what we do not know, we refuse."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import CheckpointError
from common.manifest import Architecture, Rope, RopeScaling

MAX_JSON_BYTES = 64 << 20
DEFAULT_ROPE_THETA = 10_000.0

HARMLESS_KEYS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "initializer_range",
        "is_llama_config",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers.js_config",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_cache",
    }
)
"""Keys that say nothing about what a forward pass computes."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class _RopeParameters(_Section):
    rope_type: Literal["default", "llama3"] | None = None
    type: Literal["default", "llama3"] | None = None
    rope_theta: float | None = None
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    partial_rotary_factor: float = Field(default=1.0, ge=1, le=1)


class HuggingFaceConfig(_Section):
    """Every key of config.json that we understand; a Literal is a choice of the maths that we support."""

    model_type: Literal["llama", "mistral"]
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    hidden_act: Literal["silu"] = "silu"
    tie_word_embeddings: bool = False
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    rope_interleaved: Literal[False] = False
    is_encoder_decoder: Literal[False] = False
    sliding_window: None = None
    rope_theta: float | None = None
    rope_scaling: _RopeParameters | None = None
    rope_parameters: _RopeParameters | None = None
    eos_token_id: int | list[int] | None = None

    def architecture(self) -> Architecture:
        """Return the architecture. Raises CheckpointError when the numbers do not make one."""
        if self.num_attention_heads < 1:
            raise CheckpointError("config.json: num_attention_heads is not positive")
        try:
            return Architecture(
                family="llama",
                layers=self.num_hidden_layers,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                query_heads=self.num_attention_heads,
                kv_heads=self.num_key_value_heads if self.num_key_value_heads is not None else self.num_attention_heads,
                head_dim=self.head_dim if self.head_dim is not None else self.hidden_size // self.num_attention_heads,
                vocabulary_size=self.vocab_size,
                context_length=self.max_position_embeddings,
                norm_eps=self.rms_norm_eps,
                rope=self._rope(),
                tied_embeddings=self.tie_word_embeddings,
            )
        except ValidationError as error:
            raise CheckpointError(f"config.json: {_problems(error)}") from error

    def _rope(self) -> Rope:
        if self.rope_scaling and self.rope_parameters:
            raise CheckpointError("config.json: rope_scaling and rope_parameters are both given")
        rope = self.rope_parameters or self.rope_scaling or _RopeParameters()
        thetas = {theta for theta in (self.rope_theta, rope.rope_theta) if theta is not None}
        if len(thetas) > 1:
            raise CheckpointError(f"config.json: rope_theta is given as {sorted(thetas)}")
        theta = thetas.pop() if thetas else DEFAULT_ROPE_THETA
        if (rope.rope_type or rope.type or "default") == "default":
            return Rope(theta=theta)
        fields: dict[str, Any] = {
            "factor": rope.factor,
            "low_frequency_factor": rope.low_freq_factor,
            "high_frequency_factor": rope.high_freq_factor,
            "original_context_length": rope.original_max_position_embeddings,
        }
        return Rope(theta=theta, scaling=RopeScaling(kind="llama3", **fields))


def read_config(folder: Path) -> HuggingFaceConfig:
    """Return the model's config.json. Raises CheckpointError naming each key it cannot be read for."""
    fields = read_json(folder / "config.json")
    if fields is None:
        raise CheckpointError(f"{folder}: there is no config.json")
    try:
        return HuggingFaceConfig.model_validate({k: v for k, v in fields.items() if k not in HARMLESS_KEYS})
    except ValidationError as error:
        raise CheckpointError(f"{folder / 'config.json'} is not supported: {_problems(error)}") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file, None without a file. Raises CheckpointError for anything else."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES} bytes")
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return fields


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))} = {json.dumps(e['input'], default=str)[:80]}: {e['msg']}"
        for e in error.errors()
    )
