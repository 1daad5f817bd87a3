"""Writing a checkpoint: tensors stream to disk, the manifest comes last, then one rename shows it all."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE, FileDigest, Manifest, TokenizerFile
from shard_worker.checkpoint.layout import TensorSpec, expected_tensors
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.reader import Progress, verify
from shard_worker.checkpoint.safetensors_stream import serialised
from shard_worker.checkpoint.source import TOKENIZER_FILES, ForeignModel
from shard_worker.checkpoint.turn_end import turn_end_id
from shard_worker.checkpoint.weight_shapes import Dtype

MAX_FILE_BYTES = 2 << 30
CHAT_TEMPLATE_FILE = "chat_template.jinja"

Specs = dict[str, TensorSpec]


def write_checkpoint(
    model: ForeignModel,
    output: OutputFolder,
    name: str,
    dtype: Dtype,
    progress: Progress,
    max_file_bytes: int = MAX_FILE_BYTES,
    stage: str = "converting",
) -> Manifest:
    """Make the checkpoint `name` of `model` in `output`, float matrices in `dtype`, and return its manifest.

    `stage` is what `progress` is told while weights are written.

    Holds one block of one tensor in memory. Everything written is read back and hashed before it is shown. Raises
    CheckpointError when a tensor of the model has the wrong shape, or one of its ids is no token.
    """
    end_of_text_ids = _end_of_text_ids(model)
    _check_ids(model)
    folder = output.partial
    specs = expected_tensors(model.architecture, dtype, model.quantization)
    files = _write_weights(model, folder, specs, lambda done, total: progress(stage, done, total), max_file_bytes)
    tokenizer_file = TOKENIZER_FILES[model.tokenizer.kind]
    files[tokenizer_file] = _write(folder / tokenizer_file, [model.tokenizer.data])
    if model.chat_template is not None:
        files[CHAT_TEMPLATE_FILE] = _write(folder / CHAT_TEMPLATE_FILE, [model.chat_template.encode()])
    manifest = Manifest(
        name=name,
        source=model.source,
        architecture=model.architecture,
        dtype=dtype,
        quantization=model.quantization,
        tokenizer=TokenizerFile(
            kind=model.tokenizer.kind,
            file=tokenizer_file,
            sha256=files[tokenizer_file].sha256,
            bos_id=model.tokenizer.bos_id,
        ),
        end_of_text_ids=end_of_text_ids,
        chat_template=CHAT_TEMPLATE_FILE if model.chat_template is not None else None,
        files=dict(sorted(files.items())),
    )
    _write(folder / MANIFEST_FILE, [manifest.model_dump_json(indent=2).encode() + b"\n"])
    verify(folder, progress)
    output.commit()
    return manifest


def _end_of_text_ids(model: ForeignModel) -> tuple[int, ...]:
    """Return the model's end ids and the token that ends a turn in its chat template; a template's eos_token first."""
    ends = list(model.end_of_text_ids)
    ends.sort(key=lambda id: id not in model.tokenizer.end_ids[:1])
    if model.chat_template is not None:
        turn_end = turn_end_id(model.chat_template, model.tokenizer, tuple(ends))
        ends += [] if turn_end is None else [turn_end]
    return tuple(dict.fromkeys(ends))


def _check_ids(model: ForeignModel) -> None:
    size = model.architecture.vocabulary_size
    for id in (*model.end_of_text_ids, *([] if model.tokenizer.bos_id is None else [model.tokenizer.bos_id])):
        if not 0 <= id < size:
            raise CheckpointError(f"{model.source}: id {id} is not in the vocabulary of {size} tokens")


def _write_weights(
    model: ForeignModel, folder: Path, specs: Specs, progress: Callable[[int, int], None], max_file_bytes: int
) -> dict[str, FileDigest]:
    shards = _shards(specs, max_file_bytes)
    total = sum(spec.num_bytes for shard in shards for spec in shard.values())
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress(done, total)

    digests = {}
    for i, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        digests[file] = _write(folder / file, serialised(shard, model.tensors.blocks, count))
    return digests


def _shards(tensors: Specs, max_file_bytes: int) -> list[Specs]:
    """Deal the tensors out to files, in order; only a tensor that alone is larger makes a larger file."""
    shards: list[Specs] = [{}]
    size = 0
    for name, spec in tensors.items():
        if shards[-1] and size + spec.num_bytes > max_file_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = spec
        size += spec.num_bytes
    return shards


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> FileDigest:
    """Write and flush a new file, hashing it on the way."""
    sha256, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                sha256.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
    return FileDigest(bytes=size, sha256=sha256.hexdigest())
