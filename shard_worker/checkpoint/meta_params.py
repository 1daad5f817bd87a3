"""params.json of Meta's own checkpoints: read, and refused for every key that we do not understand."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from common.errors import CheckpointError
from common.manifest import Architecture, Rope, RopeScaling
from shard_worker.checkpoint.huggingface_base import problems
from shard_worker.checkpoint.huggingface_rope import Section

# Meta's `apply_scaling` (llama-models, llama3/reference_impl/model.py), of Llama 3.1.
SCALING = {"factor": 8.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0, "original_context_length": 8192}
LLAMA2C_NORM_EPS = 1e-5  # its ModelArgs' default, which train.py never changes
MODEL_ARGS = "model_args"
"""The key of a safetensors file's metadata under which llama2.c's arguments stand, as JSON."""
CONTEXT_LENGTHS = "Llama 1: 2048, Llama 2: 4096, Llama 3: 8192, Llama 3.1 and later: 131072, CodeLlama: 16384"

Size = Annotated[int, Field(gt=0, le=1 << 24)]


class MetaParams(Section):
    """Every key that we understand. Without n_kv_heads there are as many as query heads (Llama 1).

    The context's length is not a key that Meta writes; max_seq_len is, of what others write in this form.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    dim: Size
    n_layers: Size
    n_heads: Size
    n_kv_heads: Size | None = None
    head_dim: Size | None = None
    hidden_dim: Size | None = None
    multiple_of: Size | None = None
    ffn_dim_multiplier: float | None = Field(default=None, gt=0, lt=1000)
    norm_eps: float
    rope_theta: float = 10_000.0
    use_scaled_rope: bool = False
    rope_scaling_factor: float | None = None
    vocab_size: int = -1
    max_seq_len: Size | None = None
    max_batch_size: int | None = None

    def architecture(self, embedding_rows: int, context_length: int | None) -> Architecture:
        """Return the architecture of a model that embeds `embedding_rows` tokens.

        `context_length` counts where it is given. Raises CheckpointError when the numbers do not make an architecture.
        """
        if self.vocab_size not in (-1, embedding_rows):  # -1: "what the tokenizer has"
            raise CheckpointError(f"params.json: vocab_size is {self.vocab_size}, of tok_embeddings {embedding_rows}")
        if (context_length := context_length or self.max_seq_len) is None:
            raise CheckpointError(
                f"params.json does not say how long the context is; --context-length does ({CONTEXT_LENGTHS})"
            )
        if self.head_dim is None and self.dim % self.n_heads:
            raise CheckpointError(f"params.json: {self.n_heads} heads do not divide a dim of {self.dim}")
        try:
            return Architecture(
                family="llama",
                layers=self.n_layers,
                hidden_size=self.dim,
                intermediate_size=self.intermediate_size(),
                query_heads=self.n_heads,
                kv_heads=self.n_kv_heads or self.n_heads,
                head_dim=self.head_dim or self.dim // self.n_heads,
                vocabulary_size=embedding_rows,
                context_length=context_length,
                norm_eps=self.norm_eps,
                rope=Rope(theta=self.rope_theta, scaling=self._scaling()),
                tied_embeddings=False,
            )
        except ValidationError as error:
            raise CheckpointError(f"params.json: {problems(error)}") from error

    def intermediate_size(self) -> int:
        """Return hidden_dim, or what Meta's `FeedForward` makes of the width: two thirds of 4 dim, scaled, rounded up.

        Raises CheckpointError when it does not follow from the keys.
        """
        if self.hidden_dim is not None:
            if self.ffn_dim_multiplier is not None:
                raise CheckpointError("params.json: hidden_dim and ffn_dim_multiplier are both given")
            return self.hidden_dim
        if self.multiple_of is None:
            raise CheckpointError("params.json: neither multiple_of nor hidden_dim is given")
        wide = 2 * 4 * self.dim // 3
        if self.ffn_dim_multiplier is not None:
            wide = int(self.ffn_dim_multiplier * wide)
        return -(-wide // self.multiple_of) * self.multiple_of

    @property
    def scaling_is_unsaid(self) -> bool:
        """Whether rope is scaled, but nobody says how much."""
        return self.use_scaled_rope and self.rope_scaling_factor is None

    def _scaling(self) -> RopeScaling | None:
        if not self.use_scaled_rope:
            if self.rope_scaling_factor is not None:
                raise CheckpointError("params.json: rope_scaling_factor is given, but use_scaled_rope is not true")
            return None
        stated = {} if self.rope_scaling_factor is None else {"factor": self.rope_scaling_factor}
        return RopeScaling.model_validate({"kind": "llama3", **SCALING, **stated})


def parse_params(path: Path, fields: dict[str, Any]) -> MetaParams:
    """Return what these `fields` of `path` say. Raises CheckpointError naming each key it cannot be read for."""
    try:
        return MetaParams.model_validate(fields)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not supported: {problems(error)}") from error


def read_training_arguments(path: Path) -> MetaParams | None:
    """Return the arguments that came with the tensors in the safetensors file `path`: of llama2.c's train.py.

    None where there are none. Raises CheckpointError as `parse_params`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(MODEL_ARGS)
        fields = None if text is None else json.loads(text)
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: {MODEL_ARGS} is not an object")
    fields.pop("dropout", None)  # of training
    return parse_params(path, {"norm_eps": LLAMA2C_NORM_EPS} | fields)
