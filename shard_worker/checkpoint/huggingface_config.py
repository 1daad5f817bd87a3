"""config.json of a hub folder: read, and refused for every key that we do not understand."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_base import HARMLESS_KEYS, HuggingFaceConfig, problems
from shard_worker.checkpoint.huggingface_families import FAMILIES

MAX_JSON_BYTES = 64 << 20


def read_config(folder: Path) -> HuggingFaceConfig:
    """Return the model's config.json. Raises CheckpointError naming each key it cannot be read for."""
    path = folder / "config.json"
    fields = read_json(path)
    if fields is None:
        raise CheckpointError(f"{folder}: there is no config.json")
    return parse_config(path, fields)


def parse_config(path: Path, fields: dict[str, Any]) -> HuggingFaceConfig:
    """Return the config of these `fields`, which are those of `path`. Raises CheckpointError as `read_config`."""
    model_type = fields.get("model_type", _model_type_of_class(fields.get("architectures")))
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(
            f"{path} is not supported: model_type = {json.dumps(model_type)[:80]} is none of "
            + ", ".join(sorted(FAMILIES))
        )
    try:
        read = {key: value for key, value in fields.items() if key not in HARMLESS_KEYS}
        return FAMILIES[model_type].model_validate(read | {"model_type": model_type})
    except ValidationError as error:
        raise CheckpointError(f"{path} is not supported: {problems(error)}") from error


def _model_type_of_class(architectures: object) -> str | None:
    """Return the model_type that a file leaves out because its class is custom code, which states it instead."""
    return "grok-1" if architectures == ["Grok1ModelForCausalLM"] else None


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
