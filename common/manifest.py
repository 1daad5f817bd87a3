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


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RopeScaling(_Section):
    """Llama 3.1's frequency scaling (Meta's reference `apply_scaling`)."""

    kind: Literal["llama3"]
    factor: float = Field(gt=0)
    low_frequency_factor: float = Field(gt=0)
    high_frequency_factor: float = Field(gt=0)
    original_context_length: PositiveInt


class Rope(_Section):
    """Rotary position embedding, half-split layout (the first half of a head rotates with the second)."""

    theta: float = Field(gt=0)
    scaling: RopeScaling | None = None


class Architecture(_Section):
    """The shape of a Llama-family decoder."""

    family: Literal["llama"]
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


class Quantization(_Section):
    """How linear weights are stored; `shard_worker.quantization.formats` has the formulas.

    int8 is symmetric, one scale a row. int4 is asymmetric in groups of `group_size` columns that start at column 0; the
    attention output matrix, whose columns are cut by heads, has groups of `head_group_size`, which divides a head. The
    embedding and the head are stored as `embedding` says.
    """

    mode: Literal["none", "int8", "int4"]
    method: Literal["round-to-nearest", "gptq"] | None = None
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
        if self.mode == "int8" and self.method == "gptq":
            raise ValueError("method gptq is of mode int4")
        group_size, head_group_size = self.group_size or 0, self.head_group_size or 2
        if group_size % head_group_size or head_group_size % 2:
            raise ValueError("head_group_size must be even and divide group_size")
        return self


UNQUANTIZED = Quantization(mode="none")


class TokenizerFile(_Section):
    """Which tokenizer reads the text. `bos_id` is prepended to plain text when it is not None."""

    kind: Literal["tokenizer_json", "sentencepiece"]
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
