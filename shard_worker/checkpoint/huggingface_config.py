"""config.json of a hub folder: read, and refused for every key that we do not understand."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_base import HuggingFaceConfig, problems
from shard_worker.checkpoint.huggingface_families import FAMILIES

MAX_JSON_BYTES = 64 << 20

HARMLESS_KEYS = frozenset(
    {
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "bos_token_id",
        "cache_implementation",
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


def read_config(folder: Path) -> HuggingFaceConfig:
    """Return the model's config.json. Raises CheckpointError naming each key it cannot be read for."""
    path = folder / "config.json"
    fields = read_json(path)
    if fields is None:
        raise CheckpointError(f"{folder}: there is no config.json")
    return parse_config(path, fields)


def parse_config(path: Path, fields: dict[str, Any]) -> HuggingFaceConfig:
    """Return the config of these `fields`, which are those of `path`. Raises CheckpointError as `read_config`."""
    model_type = fields.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(
            f"{path} is not supported: model_type = {json.dumps(model_type)[:80]} is none of "
            + ", ".join(sorted(FAMILIES))
        )
    try:
        return FAMILIES[model_type].model_validate({k: v for k, v in fields.items() if k not in HARMLESS_KEYS})
    except ValidationError as error:
        raise CheckpointError(f"{path} is not supported: {problems(error)}") from error


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
