"""Run as a script, `torch_child SOURCE OUTPUT`: a file of torch.save in, a safetensors file out, under limits.

The only file of the house that calls torch.load: weights-only, and in a process that has nothing to lose. How it goes
is said on stdout, one JSON object a line: {"done": bytes, "total": bytes}, and last {"error": text} or {"error": null}.
"""

import json
import math
import resource
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import CheckpointError
from common.parent_death import die_with_parent_if_told
from shard_worker.checkpoint.layout import SAFETENSORS_DTYPES, TensorSpec
from shard_worker.checkpoint.meta_params import MODEL_ARGS
from shard_worker.checkpoint.safetensors_header import MAX_TENSORS
from shard_worker.checkpoint.safetensors_stream import serialised
from shard_worker.checkpoint.source import row_blocks

MAX_PICKLE_BYTES = 64 << 20
MAX_RECORDS = 2 * MAX_TENSORS
MAX_NAME_CHARACTERS = 256
MAX_REASON_CHARACTERS = 300
TORCHS_ADVICE = ("Weights only load failed.", "Please file an issue", "Check the documentation")
# What a checkpoint of llama2.c's train.py has at least and at most.
TRAINING_KEYS = (
    {"model", "model_args"},
    {"model", "model_args", "optimizer", "iter_num", "best_val_loss", "config"},
)
# Views may overlap, as a head that is the embedding does; a view of one element that claims to be many must not.
MAX_GROWTH = 2
HEADROOM_BYTES = 512 << 20
CPU_HEADROOM_S = 60
CPU_BYTES_PER_S = 20 << 20


def limit_process(file_bytes: int) -> None:
    """Bound what this process may take from now on: memory, time, and what it may write."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = used.ru_utime + used.ru_stime + CPU_HEADROOM_S + file_bytes / CPU_BYTES_PER_S
    limits = {
        resource.RLIMIT_CPU: int(cpu_s) + 1,
        resource.RLIMIT_FSIZE: MAX_GROWTH * file_bytes + HEADROOM_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        mapped_pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = mapped_pages * resource.getpagesize() + file_bytes + HEADROOM_BYTES
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        allowed = sys.maxsize if hard == resource.RLIM_INFINITY else hard
        # The soft one a little lower: of CPU time, its signal says what happened.
        resource.setrlimit(kind, (min(limit, allowed), min(limit + 1, allowed)))


def convert(source: Path, output: Path) -> None:
    """Write the tensors of `source` to `output`. Raises CheckpointError when it is not a dictionary of tensors."""
    file_bytes = source.stat().st_size
    _check_archive(source, file_bytes)
    try:
        content = torch.load(source, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever the pickle made happen
        raise CheckpointError(_reason(error)) from error
    content, metadata = _unwrapped(content)
    tensors = _tensors(content)
    specs = {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    total = sum(spec.num_bytes for spec in specs.values())
    if total > MAX_GROWTH * file_bytes:
        raise CheckpointError(f"its tensors have {total} bytes, more than {MAX_GROWTH} times the file's {file_bytes}")
    done = 0

    def count(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        _tell(done=done, total=total)

    def blocks(name: str) -> Iterator[torch.Tensor]:
        rows, *others = tensors[name].shape
        return (tensors[name][block] for block in row_blocks(rows, math.prod(others)))

    with output.open("xb") as file:
        for chunk in serialised(specs, blocks, count, metadata):
            file.write(chunk)


def _check_archive(source: Path, file_bytes: int) -> None:
    """Raise CheckpointError unless this is an archive as torch.save writes one: nothing in it is compressed."""
    try:
        with zipfile.ZipFile(source) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, UnicodeDecodeError) as error:
        raise CheckpointError(f"not an archive as torch.save writes one since torch 1.6: {error}") from error
    if len(records) > MAX_RECORDS:
        raise CheckpointError(f"{len(records)} records are more than {MAX_RECORDS}")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"record {record.filename[:MAX_NAME_CHARACTERS]!r} is compressed")
        if record.filename.endswith("/data.pkl") and record.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"a pickle of {record.file_size} bytes is larger than {MAX_PICKLE_BYTES}")
    if (total := sum(record.file_size for record in records)) > file_bytes:
        raise CheckpointError(f"its records have {total} bytes, the file only {file_bytes}")


def _unwrapped(content: Any) -> tuple[Any, dict[str, str]]:
    """Return the tensors in a checkpoint of llama2.c's train.py, and its arguments; anything else as it is."""
    if not isinstance(content, Mapping) or not TRAINING_KEYS[0] <= content.keys() <= TRAINING_KEYS[1]:
        return content, {}
    tensors, arguments = content["model"], content["model_args"]
    if not isinstance(tensors, Mapping) or not isinstance(arguments, Mapping):
        raise CheckpointError("its model or model_args is not a dictionary")
    # torch.compile leaves a prefix.
    stripped = {name.removeprefix("_orig_mod.") if isinstance(name, str) else name: t for name, t in tensors.items()}
    if len(stripped) < len(tensors):
        raise CheckpointError("a tensor is there with and without the prefix _orig_mod.")
    numbers = {str(key): value for key, value in arguments.items() if isinstance(value, int | float | None)}
    return stripped, {MODEL_ARGS: json.dumps(numbers)}


def _tensors(content: Any) -> dict[str, torch.Tensor]:
    """Return the tensors by name. Raises CheckpointError naming what is none."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"it holds {type(content).__name__}, not a dictionary of tensors")
    if len(content) > MAX_TENSORS:
        raise CheckpointError(f"{len(content)} tensors are more than {MAX_TENSORS}")
    for name, tensor in content.items():
        if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME_CHARACTERS:
            raise CheckpointError(f"{ascii(name)[:MAX_NAME_CHARACTERS]} is not a tensor's name")
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            raise CheckpointError(f"{name} is {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise CheckpointError(f"{name} is not a plain tensor")
        if tensor.dtype not in SAFETENSORS_DTYPES.values():
            raise CheckpointError(f"{name} has type {tensor.dtype}, which is not supported")
        if not tensor.dim() or not tensor.numel():
            raise CheckpointError(f"{name} is {list(tensor.shape)}, which holds no rows")
    return {name: tensor.detach() for name, tensor in content.items()}


def _reason(error: Exception) -> str:
    """Return torch's message in one line, without its advice to read the file unsafely."""
    text = str(error).rpartition("WeightsUnpickler error:")[2]
    lines = [line.strip().partition(" Please use")[0] for line in text.splitlines()]
    reason = next((line for line in lines if line and not line.startswith(TORCHS_ADVICE)), type(error).__name__)
    return f"torch's weights-only reader refuses it: {reason[:MAX_REASON_CHARACTERS]}"


def _tell(**message: int | str | None) -> None:
    print(json.dumps(message), flush=True)


def attempt(source: Path, output: Path) -> str | None:
    """Convert `source` and return what is wrong with it, None for nothing."""
    try:
        convert(source, output)
    except (CheckpointError, OSError, MemoryError, RuntimeError) as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None


def main(arguments: list[str]) -> None:
    """Convert `arguments[0]` to `arguments[1]` and tell how it went."""
    die_with_parent_if_told()
    source, output = map(Path, arguments)
    torch.set_num_threads(1)
    limit_process(source.stat().st_size)
    _tell(error=attempt(source, output))


if __name__ == "__main__":
    main(sys.argv[1:])
