"""A checkpoint's manifest: `tandem.json` states everything that cannot be read off the weights themselves.

A checkpoint is a folder holding the manifest, `model*.safetensors`, the tokenizer's file and, for chat models, the
chat template. Nothing is inferred from names; an unknown key is refused, since it may change the maths.
"""

import hashlib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from common.errors import CheckpointError

MANIFEST_FILE = "tandem.json"
MAX_MANIFEST_BYTES = 4 << 20
MAX_FEED_FORWARDS = 20_000
"""Layers times experts: lists of tensors are made from these numbers before a tensor is looked at."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RopeScaling(_Section):
    """Llama 3.1's frequency scaling (Meta's reference `apply_scaling`)."""

    kind: Literal["llama3"]
    factor: float = Field(gt=0)
    low_frequency_factor: float = Field(gt=0)
    high_frequency_factor: float = Field(gt=0)
    original_context_length: PositiveInt


class LinearScaling(_Section):
    """Position interpolation (Chen et al. 2023): every frequency divided by `factor`."""

    kind: Literal["linear"]
    factor: float = Field(gt=0)


class YarnScaling(_Section):
    """YaRN (Peng et al. 2023): long waves interpolated, short ones kept, a ramp between; cosines and sines multiplied.

    The ramp lies between the waves that turn `beta_fast` and `beta_slow` times within the original context.
    """

    kind: Literal["yarn"]
    factor: float = Field(gt=0)
    original_context_length: PositiveInt
    beta_fast: float = Field(gt=0)
    beta_slow: float = Field(gt=0)
    attention_factor: float = Field(gt=0)


class LongRopeScaling(_Section):
    """LongRoPE (Ding et al. 2024): each frequency divided by a factor of its own, cosines and sines multiplied."""

    kind: Literal["longrope"]
    factors: tuple[float, ...]
    attention_factor: float = Field(gt=0)


class Rope(_Section):
    """Rotary position embedding, half-split layout (the first half of a head rotates with the second)."""

    theta: float = Field(gt=0)
    scaling: RopeScaling | LinearScaling | YarnScaling | LongRopeScaling | None = Field(
        default=None, discriminator="kind"
    )


class Experts(_Section):
    """Feed-forward experts (Mixtral, Jiang et al. 2024): each token goes to `per_token` of `count`.

    The router's softmax over all experts picks the largest, whose weights are then divided by their sum where
    `normalized` says so.
    """

    count: PositiveInt
    per_token: PositiveInt
    normalized: bool = Field(default=True, exclude_if=lambda normalized: normalized)


class Variations(_Section):
    """Everything in which a decoder may differ from plain Llama, all of it stated.

    `windows` has one entry a layer: how many positions a token sees, itself included, or None for all. Layers with a
    window rotate by `local_rope` where it is given. `rotary_dim` dimensions of a head, the first ones, are rotated;
    where it is 0, `rope` is of no use. `output_norms` norms what attention and feed-forward give before it is added to
    the residual. A soft cap c makes x to c tanh(x / c).

    Below `experts` all is left out that is Llama's, as in checkpoints that are older. `layer_norms` subtract the mean
    (Ba et al. 2016) and have no bias. `qkv_clip` limits queries, keys and values before they are rotated. `logit_scale`
    multiplies logits before they are capped. `alibi` lowers scores by the distance of query and key times a slope of
    the head's (Press et al. 2022).
    """

    qkv_bias: bool
    qk_norm: bool
    output_norms: bool
    activation: Literal["silu", "gelu_tanh"]
    embedding_scale: float = Field(gt=0)
    rotary_dim: int = Field(ge=0)
    attention_scale: float = Field(gt=0)
    attention_soft_cap: float | None = Field(gt=0)
    logit_soft_cap: float | None = Field(gt=0)
    windows: tuple[PositiveInt | None, ...]
    local_rope: Rope | None
    experts: Experts | None
    layer_norms: bool = Field(default=False, exclude_if=lambda layer_norms: not layer_norms)
    qkv_clip: float | None = Field(default=None, gt=0, exclude_if=lambda limit: limit is None)
    logit_scale: float = Field(default=1.0, gt=0, exclude_if=lambda scale: scale == 1)
    alibi: bool = Field(default=False, exclude_if=lambda alibi: not alibi)


class Architecture(_Section):
    """The shape of a decoder of the Llama family in the wide sense.

    `family` is a label; without `variations` it is plain Llama. A trimmed head has `head_size` rows, those of head.ids.
    """

    family: Literal[
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma",
        "gemma2",
        "gemma3",
        "dbrx",
        "grok-1",
        "baichuan",
    ]
    layers: PositiveInt
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    query_heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocabulary_size: PositiveInt
    context_length: PositiveInt
    norm_eps: float = Field(gt=0)
    rope: Rope
    tied_embeddings: bool
    # Left out where it is None, so that a Llama's manifest, and with it the checkpoint's hash, is what it always was.
    variations: Variations | None = Field(default=None, exclude_if=lambda variations: variations is None)
    head_size: PositiveInt | None = Field(default=None, exclude_if=lambda size: size is None)

    @model_validator(mode="after")
    def _states_a_decoder(self) -> Self:
        experts = None if self.variations is None else self.variations.experts
        if self.layers * (1 if experts is None else experts.count) > MAX_FEED_FORWARDS:
            raise ValueError(f"more than {MAX_FEED_FORWARDS} feed-forward networks")
        if self.variations is None:
            if self.family != "llama":
                raise ValueError(f"a {self.family} states its variations")
            self._check_rope(self.rope, self.head_dim)
            return self
        v = self.variations
        if len(v.windows) != self.layers:
            raise ValueError(f"{len(v.windows)} windows for {self.layers} layers")
        if v.rotary_dim > self.head_dim or v.rotary_dim % 2:
            raise ValueError(f"rotary_dim {v.rotary_dim} is odd or more than head_dim {self.head_dim}")
        if v.experts is not None and v.experts.per_token > v.experts.count:
            raise ValueError(f"{v.experts.per_token} experts a token, of {v.experts.count}")
        for rope in (self.rope, *([] if v.local_rope is None else [v.local_rope])):
            self._check_rope(rope, v.rotary_dim)
        return self

    @staticmethod
    def _check_rope(rope: Rope, rotary_dim: int) -> None:
        if isinstance(rope.scaling, LongRopeScaling) and len(rope.scaling.factors) != rotary_dim // 2:
            raise ValueError(f"{len(rope.scaling.factors)} longrope factors for {rotary_dim // 2} frequencies")

    @property
    def departures(self) -> tuple[str, ...]:
        """In what this decoder computes otherwise than plain Llama, in words: for code that knows only Llama."""
        v = self.variations
        trimmed = () if self.head_size is None else ("trimmed head",)
        if v is None:
            return trimmed
        found = {
            "query, key and value biases": v.qkv_bias,
            "query and key norms": v.qk_norm,
            "output norms": v.output_norms,
            f"activation {v.activation}": v.activation != "silu",
            "embedding scale": v.embedding_scale != 1,
            "partly rotated heads": v.rotary_dim != self.head_dim,
            "attention scale": v.attention_scale != self.head_dim**-0.5,
            "soft caps": v.attention_soft_cap is not None or v.logit_soft_cap is not None,
            "sliding windows": any(window is not None for window in v.windows),
            "experts": v.experts is not None,
            "layer norms": v.layer_norms,
            "clipped queries, keys and values": v.qkv_clip is not None,
            "logit scale": v.logit_scale != 1,
            "linear biases": v.alibi,
        }
        return (*trimmed, *(name for name, differs in found.items() if differs))


class Quantization(_Section):
    """How linear weights are stored; `shard_worker.quantization.formats` has the formulas.

    int8 is symmetric, one scale a row. int4 is asymmetric in groups of `group_size` columns that start at column 0; the
    attention output matrix, whose columns are cut by heads, has groups of `head_group_size`, which divides a head. The
    embedding and the head are stored as `embedding` says.
    """

    mode: Literal["none", "int8", "int4"]
    method: Literal["round-to-nearest", "gptq", "awq", "compressed-tensors"] | None = None
    group_size: Literal[32, 64, 128, 256] | None = None
    head_group_size: PositiveInt | None = None
    embedding: Literal["none", "int8"] = "none"
    layout_version: Literal[1] = 1

    @model_validator(mode="after")
    def _is_one_of_the_formats(self) -> Self:
        stated = {name for name in ("method", "group_size", "head_group_size") if getattr(self, name) is not None}
        needed = {"none": set(), "int8": {"method"}, "int4": {"method", "group_size", "head_group_size"}}[self.mode]
        if stated != needed:
            raise ValueError(f"mode {self.mode} states {sorted(needed)}, not {sorted(stated)}")
        if self.mode == "none" and self.embedding != "none":
            raise ValueError("mode none leaves the embedding as it is")
        if self.mode == "int8" and self.method != "round-to-nearest":
            raise ValueError(f"method {self.method} is of mode int4")
        group_size, head_group_size = self.group_size or 0, self.head_group_size or 2
        if group_size % head_group_size or head_group_size % 2:
            raise ValueError("head_group_size must be even and divide group_size")
        return self


UNQUANTIZED = Quantization(mode="none")


class TokenizerFile(_Section):
    """Which tokenizer reads the text. `bos_id` is prepended to plain text when it is not None."""

    kind: Literal["tokenizer_json", "sentencepiece", "tiktoken"]
    file: str
    sha256: str
    bos_id: int | None


class FileDigest(_Section):
    """Size and SHA-256 of one file of the checkpoint."""

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(_Section):
    """The whole of `tandem.json`."""

    format: Literal["tandem-checkpoint"] = "tandem-checkpoint"
    format_version: Literal[1] = 1
    name: str = Field(min_length=1)
    source: str
    architecture: Architecture
    dtype: Literal["float32", "bfloat16", "float16"]
    quantization: Quantization
    tokenizer: TokenizerFile
    end_of_text_ids: tuple[int, ...]
    chat_template: str | None
    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _groups_lie_within_heads(self) -> Self:
        group_size = self.quantization.head_group_size
        if group_size is not None and self.architecture.head_dim % group_size:
            raise ValueError(f"head_group_size {group_size} does not divide head_dim {self.architecture.head_dim}")
        return self


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """Return the manifest of the checkpoint in `folder` and its hash (SHA-256 of the file, in hex).

    Raises CheckpointError when it is missing, too large or not valid.
    """
    path = folder / MANIFEST_FILE
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"no checkpoint in {folder}: {error.strerror or error} ({MANIFEST_FILE}). "
            "Make one with `tandem download` or `tandem convert`."
        ) from error
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{path} is not a valid manifest: {problems}") from error
    for name in (*manifest.files, manifest.tokenizer.file, *filter(None, [manifest.chat_template])):
        if Path(name).name != name:
            raise CheckpointError(f"{path} names a file outside its folder: {name!r}")
    return manifest, hashlib.sha256(data).hexdigest()
