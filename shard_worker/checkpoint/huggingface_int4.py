"""quantization_config of a hub folder: which of the int4 formats it is, and what changes the meaning of its numbers.

Methods: AWQ (Lin et al. 2023), GPTQ (Frantar et al. 2022), and whatever made a file of the compressed-tensors package.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import CheckpointError
from common.manifest import Architecture, Quantization
from shard_worker.checkpoint.huggingface_base import problems
from shard_worker.quantization.stated import quantization_of

Method = Literal["awq", "gptq", "compressed-tensors"]
GROUP_SIZES = (32, 64, 128, 256)
ROW_GROUP_SIZE = 128
"""Our groups of a matrix that has one scale a row: each repeats it."""

HARMLESS_KEYS = {
    "awq": {"backend", "do_fuse", "exllama_config", "fuse_max_seq_len", "modules_to_fuse", "modules_to_not_convert"},
    "gptq": {
        *("backend", "batch_size", "block_name_to_quantize", "cache_block_outputs", "damp_auto_increment"),
        *("damp_percent", "dataset", "desc_act", "disable_exllama", "exllama_config", "max_input_length", "meta"),
        *("model_file_base_name", "model_name_or_path", "model_seqlen", "module_name_preceding_first_block"),
        *("modules_in_block_to_quantize", "mse", "pad_token_id", "static_groups", "sym", "tokenizer"),
        *("true_sequential", "use_cuda_fp16", "use_exllama"),
    },
    "compressed-tensors": {"global_compression_ratio", "ignore", "quantization_status", "version"},
}
"""Keys of how it was made or is to be run. Which matrices are packed, and in which order, their tensors tell."""


@dataclass(frozen=True)
class Packing:
    """How matrices are packed: `group_size` columns to a scale, None for a whole row; stored zeros lack `offset`."""

    method: Method
    group_size: int | None
    has_zeros: bool = True
    offset: int = 0

    def quantization(self, architecture: Architecture) -> Quantization:
        """Return our own layout that holds it. Raises CheckpointError for groups that ours cannot follow."""
        size = ROW_GROUP_SIZE if self.group_size is None else math.gcd(self.group_size, GROUP_SIZES[-1])
        if size not in GROUP_SIZES:
            raise CheckpointError(f"config.json: groups of {self.group_size} columns are not supported")
        stated = quantization_of(architecture, "int4", size, "none").model_dump()
        return Quantization.model_validate(stated | {"method": self.method})


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class _Awq(_Config):
    quant_method: Literal["awq"]
    bits: Literal[4]
    group_size: int
    zero_point: Literal[True]
    version: Literal["gemm", "GEMM"] = "gemm"

    def packing(self) -> Packing:
        return Packing("awq", _group_size(self.group_size))


class _Gptq(_Config):
    quant_method: Literal["gptq"]
    bits: Literal[4]
    group_size: int
    checkpoint_format: Literal["gptq", "gptq_v2"] = "gptq"
    format: Literal["gptq", "gptq_v2"] | None = None
    pack_dtype: Literal["int32"] = "int32"
    is_marlin_format: Literal[False] = False
    lm_head: Literal[False] = False
    dynamic: dict[str, Any] | None = Field(default=None, max_length=0)

    def packing(self) -> Packing:
        second = "gptq_v2" in (self.format, self.checkpoint_format)
        return Packing("gptq", _group_size(self.group_size), offset=0 if second else 1)


class _Weights(_Config):
    num_bits: Literal[4]
    type: Literal["int"]
    symmetric: bool
    strategy: Literal["group", "channel"]
    group_size: int | None = None
    dynamic: Literal[False] = False
    block_structure: None = None
    actorder: str | bool | None = None
    observer: str | None = None
    observer_kwargs: dict[str, Any] | None = None
    scale_dtype: str | None = None
    zp_dtype: str | None = None


class _Group(_Config):
    targets: list[str]
    weights: _Weights
    input_activations: None = None
    output_activations: None = None
    format: Literal["pack-quantized"] | None = None


class _CompressedTensors(_Config):
    quant_method: Literal["compressed-tensors"]
    format: Literal["pack-quantized"]
    config_groups: dict[str, _Group] = Field(min_length=1, max_length=1)
    kv_cache_scheme: None = None
    sparsity_config: dict[str, Any] | None = Field(default=None, max_length=0)
    transform_config: dict[str, Any] | None = Field(default=None, max_length=0)

    def packing(self) -> Packing:
        (group,) = self.config_groups.values()
        w = group.weights
        size = None if w.strategy == "channel" else _group_size(w.group_size or 0)
        return Packing("compressed-tensors", size, has_zeros=not w.symmetric)


_METHODS: dict[str, type[_Awq | _Gptq | _CompressedTensors]] = {
    "awq": _Awq,
    "gptq": _Gptq,
    "compressed-tensors": _CompressedTensors,
}


def read_packing(config: dict[str, Any] | None) -> Packing | None:
    """Return what config.json's quantization_config says, None without one.

    Raises CheckpointError naming each key and value that is not supported: other methods (FP8 is one), other widths
    than 4 bits, quantised activations or caches, and keys that are not known.
    """
    if config is None:
        return None
    method = config.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        found = json.dumps(method)[:80]
        raise CheckpointError(
            f"config.json: quantization_config.quant_method = {found} is none of {', '.join(_METHODS)}"
        )
    try:
        known = {key: value for key, value in config.items() if key not in HARMLESS_KEYS[method]}
        return _METHODS[method].model_validate(known).packing()
    except ValidationError as error:
        raise CheckpointError(f"config.json: quantization_config is not supported: {problems(error)}") from error


def _group_size(columns: int) -> int | None:
    if columns == -1:
        return None
    if columns < 1:
        raise CheckpointError(f"config.json: quantization_config.group_size = {columns}")
    return columns
