"""What a GGUF file's metadata say of the model, in the words of config.json, so that both ways have the same formulas.

Keys: the GGUF specification; what llama.cpp adds to it without a key is said where it is added.
"""

import math
from typing import Any

import numpy as np
from pydantic import ValidationError

from common.errors import CheckpointError
from common.manifest import Architecture, LinearScaling, LongRopeScaling, Rope
from shard_worker.checkpoint.gguf_file import GgufFile
from shard_worker.checkpoint.gguf_metadata import GgufMetadata
from shard_worker.checkpoint.gguf_rope import llama3_parameters, longrope_parameters, shortest
from shard_worker.checkpoint.huggingface_base import problems
from shard_worker.checkpoint.huggingface_families import FAMILIES

# GGUF's names and the hub's. Mixtral and Mistral are "llama" to GGUF: what they have besides is in keys of their own.
MODEL_TYPES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "phi3": "phi3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}
DEFAULT_ROPE_THETA = 10_000.0
DEFAULT_GEMMA2_WINDOW = 4096
# llama.cpp tells by their depth the two Gemmas whose attention is scaled by hidden size / heads instead of head size.
LARGEST_GEMMAS = {("gemma2", 46), ("gemma3", 62)}
LOCAL_LAYERS_PERIOD = {"gemma2": 2, "gemma3": 6}
ROPE_TENSORS = {"llama": {"rope_freqs.weight"}, "phi3": {"rope_factors_short.weight", "rope_factors_long.weight"}}
HARMLESS_KEYS = (".rope.scaling.finetuned", ".rope.scaling.original_context_length")


def read_architecture(metadata: GgufMetadata, file: GgufFile) -> Architecture:
    """Return the architecture. Raises CheckpointError, naming it, for what is missing, unknown or not supported."""
    if (kind := metadata.get("general.type", str, "model")) != "model":
        raise CheckpointError(f"GGUF key general.type is {kind!r}, not 'model'")
    if (parts := metadata.get("split.count", int, 1)) > 1:
        raise CheckpointError(f"GGUF key split.count is {parts}: join the files with llama-gguf-split --merge")
    family = metadata.require("general.architecture", str)
    if family not in MODEL_TYPES:
        raise CheckpointError(f"GGUF architecture {family!r} is not supported, only {', '.join(MODEL_TYPES)}")
    if "token_embd.weight" not in file.tensors:
        raise CheckpointError("GGUF tensor token_embd.weight is missing")
    fields, rope = _Reading(family, metadata, file).fields()
    metadata.refuse_unknown(f"{family}.", HARMLESS_KEYS)
    try:
        architecture = FAMILIES[fields["model_type"]].model_validate(fields).architecture()
        if rope is not None:
            architecture = Architecture.model_validate(architecture.model_dump() | {"rope": rope})
    except ValidationError as error:
        raise CheckpointError(f"GGUF metadata do not make an architecture: {problems(error)}") from error
    except CheckpointError as error:
        reason = str(error).removeprefix("config.json: ")
        raise CheckpointError(f"GGUF metadata do not make an architecture: {reason}") from error
    return architecture


def rope_tensors(file: GgufFile) -> set[str]:
    """Return the tensors that `read_architecture` read, as opposed to weights."""
    return ROPE_TENSORS.get(str(file.metadata["general.architecture"]), set()) & file.tensors.keys()


class _Reading:
    """One file's metadata on their way to the keys of config.json."""

    def __init__(self, family: str, metadata: GgufMetadata, file: GgufFile) -> None:
        self._family, self._metadata, self._file = family, metadata, file
        self._layers = self._require("block_count")
        self._hidden_size = self._require("embedding_length")
        self._heads = self._require("attention.head_count")
        if self._heads < 1:
            raise CheckpointError(f"GGUF key {family}.attention.head_count is {self._heads}")
        # A layer has tensors: before lists of this length are made, see that it can be true.
        if self._layers > len(file.tensors):
            raise CheckpointError(f"GGUF key {family}.block_count is {self._layers}, of {len(file.tensors)} tensors")
        self._head_dim = self._int("attention.key_length", self._hidden_size // self._heads)
        if self._head_dim < 1 or self._head_dim % 2:
            raise CheckpointError(f"GGUF key {family}.attention.key_length is {self._head_dim}")
        self._rotary_dim = self._int("rope.dimension_count", self._head_dim)
        self._check_fixed_keys()

    def fields(self) -> tuple[dict[str, Any], Rope | None]:
        """Return config.json, and the rope where the hub's config has no words for it."""
        fields = {
            "model_type": MODEL_TYPES[self._family],
            "hidden_size": self._hidden_size,
            "intermediate_size": self._require("feed_forward_length"),
            "num_hidden_layers": self._layers,
            "num_attention_heads": self._heads,
            "num_key_value_heads": self._int("attention.head_count_kv", self._heads),
            "head_dim": self._head_dim,
            "vocab_size": self._file.tensors["token_embd.weight"].shape[0],
            "max_position_embeddings": self._require("context_length"),
            "rms_norm_eps": self._float("attention.layer_norm_rms_epsilon"),
            "tie_word_embeddings": "output.weight" not in self._file.tensors,
        }
        fields |= {"phi3": self._phi3, "gemma2": self._gemma2, "gemma3": self._gemma3, "llama": self._llama}.get(
            self._family, dict
        )()
        theta = self._float("rope.freq_base", DEFAULT_ROPE_THETA)
        if theta <= 0:
            raise CheckpointError(f"GGUF key {self._family}.rope.freq_base is {theta}")
        parameters, rope = self._rope(theta, fields)
        return fields | {"rope_parameters": {"rope_theta": theta} | parameters}, rope

    def _check_fixed_keys(self) -> None:
        fixed = {
            "attention.value_length": self._head_dim,
            "vocab_size": self._file.tensors["token_embd.weight"].shape[0],
        }
        if self._family != "phi3":
            fixed["rope.dimension_count"] = self._head_dim
        for key, supported in fixed.items():
            if (value := self._int(key, supported)) != supported:
                raise CheckpointError(f"GGUF key {self._family}.{key} is {value}; only {supported} is supported here")
        if not self._metadata.get(f"{self._family}.attention.causal", bool, True):
            raise CheckpointError(f"GGUF key {self._family}.attention.causal is false, which is not supported")

    def _llama(self) -> dict[str, Any]:
        """Llama, or Mixtral with experts, or Mistral with a window; llama.cpp keeps no window for either."""
        experts, window = self._int("expert_count", 0), self._int("attention.sliding_window", 0) or None
        if experts:
            per_token = self._require("expert_used_count")
            model = {"model_type": "mixtral", "num_local_experts": experts, "num_experts_per_tok": per_token}
            return model | {"sliding_window": window}
        self._int("expert_used_count", 0)
        return {"model_type": "mistral", "sliding_window": window} if window else {}

    def _phi3(self) -> dict[str, Any]:
        return {"sliding_window": self._int("attention.sliding_window", 0) or None}

    def _gemma2(self) -> dict[str, Any]:
        return self._later_gemma(self._int("attention.sliding_window", DEFAULT_GEMMA2_WINDOW)) | {
            "attn_logit_softcapping": self._float("attn_logit_softcapping", 50.0),
            "final_logit_softcapping": self._float("final_logit_softcapping", 30.0),
        }

    def _gemma3(self) -> dict[str, Any]:
        return self._later_gemma(self._int("attention.sliding_window", 0)) | {
            "final_logit_softcapping": self._float("final_logit_softcapping", 0.0) or None,
            "rope_local_base_freq": self._float("rope.freq_base_swa", DEFAULT_ROPE_THETA),
        }

    def _later_gemma(self, window: int) -> dict[str, Any]:
        largest = (self._family, self._layers) in LARGEST_GEMMAS
        return {
            "sliding_window": window or None,
            "layer_types": ["sliding_attention" if window and local else "full_attention" for local in self._local()],
            "query_pre_attn_scalar": self._hidden_size // self._heads if largest else self._head_dim,
        }

    def _local(self) -> list[bool]:
        """Return for each layer whether it has a window: each but the nth, or as the file lists them."""
        key = f"{self._family}.attention.sliding_window_pattern"
        if self._metadata.is_array(key):
            return self._metadata.array(key, bool, self._layers)
        period = self._metadata.get(key, int, LOCAL_LAYERS_PERIOD[self._family])
        return [period > 0 and layer % period < period - 1 for layer in range(self._layers)]

    def _rope(self, theta: float, fields: dict[str, Any]) -> tuple[dict[str, Any], Rope | None]:
        kind, factor = self._metadata.get(f"{self._family}.rope.scaling.type", str, "none"), None
        if kind not in {"none", "linear", *(["longrope"] if self._family == "phi3" else [])}:
            raise CheckpointError(f"GGUF rope scaling {kind!r} is not supported")
        if kind == "linear":
            factor = self._float("rope.scaling.factor", 1.0)
        if self._family == "llama" and "rope_freqs.weight" in self._file.tensors:
            if kind != "none":
                raise CheckpointError(f"GGUF rope scaling {kind!r} is not supported together with rope_freqs.weight")
            factors = self._factors("rope_freqs.weight")
            if found := llama3_parameters(factors, theta):
                return found, None
            scaling = LongRopeScaling(kind="longrope", factors=tuple(map(shortest, factors)), attention_factor=1.0)
            return {}, Rope(theta=theta, scaling=scaling)
        if self._family == "phi3":
            return self._phi3_rope(fields), None
        if factor is None:
            return {}, None
        if self._family == "gemma3":
            return {"rope_type": "linear", "factor": factor}, None
        return {}, Rope(theta=theta, scaling=LinearScaling(kind="linear", factor=factor))

    def _phi3_rope(self, fields: dict[str, Any]) -> dict[str, Any]:
        partial = {} if self._rotary_dim == self._head_dim else {"partial_rotary_factor": self._partial_factor()}
        if "rope_factors_short.weight" not in self._file.tensors:
            return partial
        context_length = fields["max_position_embeddings"]
        original = self._int("rope.scaling.original_context_length", context_length)
        attention_factor = self._metadata.get("phi3.rope.scaling.attn_factor", float)
        short, long = (self._factors(f"rope_factors_{which}.weight") for which in ("short", "long"))
        return partial | longrope_parameters(short, long, original, context_length, attention_factor)

    def _partial_factor(self) -> float:
        """Return the shortest fraction that makes this rotary dimension of a head."""
        exact = self._rotary_dim / self._head_dim
        for factor in (*(round(exact, digits) for digits in range(1, 17)), math.nextafter(exact, 2)):
            if int(self._head_dim * factor) == self._rotary_dim:
                return factor
        raise CheckpointError(f"GGUF key phi3.rope.dimension_count is {self._rotary_dim}, of {self._head_dim}")

    def _factors(self, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        tensor = self._file.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"GGUF tensor {name} is missing")
        if tensor.type.name != "F32" or tensor.shape != (self._rotary_dim // 2,):
            wanted = f"F32 ({self._rotary_dim // 2},)"
            raise CheckpointError(f"GGUF tensor {name} is {tensor.type.name} {tensor.shape}, not {wanted}")
        factors = self._file.packed_rows(name).view("<f4").flatten()
        if not (np.isfinite(factors).all() and (factors > 0).all()):
            raise CheckpointError(f"GGUF tensor {name} holds a factor that is not a positive number")
        return factors

    def _require(self, key: str) -> int:
        return self._metadata.require(f"{self._family}.{key}", int)

    def _int(self, key: str, default: int) -> int:
        return self._metadata.get(f"{self._family}.{key}", int, default)

    def _float(self, key: str, default: float | None = None) -> float:
        name = f"{self._family}.{key}"
        value = self._metadata.require(name, float) if default is None else self._metadata.get(name, float, default)
        if not math.isfinite(value) or abs(value) > np.finfo(np.float32).max:
            raise CheckpointError(f"GGUF key {self._family}.{key} is {value}")
        return shortest(value)
