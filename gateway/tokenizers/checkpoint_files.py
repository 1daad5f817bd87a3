"""The text files of a checkpoint: bounded in size, and exactly those the manifest names."""

import hashlib
from pathlib import Path

from common.errors import CheckpointError
from common.manifest import Manifest

MAX_TOKENIZER_BYTES = 128 << 20
MAX_CHAT_TEMPLATE_BYTES = 1 << 20


def read_tokenizer(folder: Path, manifest: Manifest) -> bytes:
    """Return the tokenizer's file.

    Raises CheckpointError when it is missing, too large, or not the file the manifest was written for.
    """
    return _read(folder / manifest.tokenizer.file, MAX_TOKENIZER_BYTES, manifest.tokenizer.sha256)


def read_chat_template(folder: Path, manifest: Manifest) -> str | None:
    """Return the chat template's source, or None for a model without one. Raises as `read_tokenizer`."""
    if manifest.chat_template is None:
        return None
    path = folder / manifest.chat_template
    digest = manifest.files.get(manifest.chat_template)
    data = _read(path, MAX_CHAT_TEMPLATE_BYTES, digest.sha256 if digest else None)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8: {error}") from error


def _read(path: Path, max_bytes: int, sha256: str | None) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise CheckpointError(f"{path} is larger than {max_bytes} bytes")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise CheckpointError(f"{path} is not the file the manifest names: its SHA-256 differs")
    return data
