"""Reading a checkpoint: only the slices that this rank needs, and nothing may be left over or missing."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open

from common.errors import CheckpointError
from common.manifest import Manifest, read_manifest
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.safetensors_header import StoredTensor, read_header
from shard_worker.checkpoint.source import row_blocks

HASH_CHUNK_BYTES = 1 << 20

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many bytes of how many are done."""


class CheckpointReader:
    """The tensors of the checkpoint in `folder`, mapped and read slice by slice.

    `manifest` is its manifest; `hash` is the manifest's SHA-256 in hex, which names the checkpoint.

    Raises CheckpointError when the folder is not a checkpoint, a file's size is not the manifest's, or the
    tensors' names, shapes and types are not the architecture's.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest, self.hash = read_manifest(folder)
        _check_sizes(folder, self.manifest)
        self._tensors = _checked_tensors(folder, self.manifest)
        self._unread = set(self._tensors)
        self._files: dict[Path, Any] = {}
        with ExitStack() as stack:
            for path in sorted({tensor.file for tensor in self._tensors.values()}):
                try:
                    self._files[path] = stack.enter_context(safe_open(path, framework="pt"))
                except (SafetensorError, OSError) as error:
                    raise CheckpointError(f"{path}: {error}") from error
            self._mappings = stack.pop_all()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the full shape of tensor `name`. Raises CheckpointError when there is none."""
        return self._stored(name).shape

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Return tensor `name`, or its part [start, stop) along `dim`, on the CPU in its stored type.

        Only that part is read. The result is contiguous, and may be the mapped file itself: copy it before
        changing it. Raises CheckpointError when there is no such tensor, or it does not reach to `stop`.
        """
        stored = self._stored(name)
        self._unread.discard(name)
        slices = self._files[stored.file].get_slice(name)
        if dim is None:
            assert start == 0 and stop is None, "a slice needs its dimension"
            tensor: torch.Tensor = slices[:]
            return tensor
        stop = stored.shape[dim] if stop is None else stop
        if not 0 <= start <= stop <= stored.shape[dim]:
            raise CheckpointError(f"{name}: [{start}, {stop}) is not within dimension {dim} of {stored.shape}")
        index = (slice(None),) * dim + (slice(start, stop),)
        part: torch.Tensor = slices[index]
        return part.contiguous()

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """Yield the rows of tensor `name` from first to last, a block at a time, through a mapping of their own.

        What was read stays resident as long as its mapping: so no longer than this one tensor is read. Raises
        CheckpointError when there is no such tensor, or its file is gone.
        """
        stored = self._stored(name)
        self._unread.discard(name)
        try:
            with safe_open(stored.file, framework="pt") as file:
                rows = file.get_slice(name)
                for block in row_blocks(stored.shape[0], stored.shape[-1]):
                    yield rows[block]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{stored.file}: {error}") from error

    def finish(self) -> None:
        """Unmap the files. Raises CheckpointError naming every tensor of which nothing was read."""
        self.close()
        if self._unread:
            raise CheckpointError(f"leftover tensors: {', '.join(sorted(self._unread))}")

    def close(self) -> None:
        """Unmap the files. Tensors that were read stay valid."""
        self._files.clear()
        self._mappings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _stored(self, name: str) -> StoredTensor:
        try:
            return self._tensors[name]
        except KeyError:
            raise CheckpointError(f"{self.manifest.name}: no tensor {name!r}") from None


def verify(folder: Path, progress: Progress) -> None:
    """Hash every file of the checkpoint in `folder` again. Raises CheckpointError where one differs."""
    manifest, _ = read_manifest(folder)
    _check_sizes(folder, manifest)
    total, done = sum(digest.bytes for digest in manifest.files.values()), 0
    for name, digest in manifest.files.items():
        sha256 = hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                sha256.update(chunk)
                done += len(chunk)
                progress("verifying", done, total)
        if sha256.hexdigest() != digest.sha256:
            raise CheckpointError(f"{folder / name} is damaged: its SHA-256 is not the manifest's")


def _check_sizes(folder: Path, manifest: Manifest) -> None:
    for name, digest in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise CheckpointError(f"{folder / name}: {error.strerror or error}") from error
        if size != digest.bytes:
            raise CheckpointError(f"{folder / name} has {size} bytes, not the {digest.bytes} of the manifest")


def _checked_tensors(folder: Path, manifest: Manifest) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(name for name in manifest.files if name.endswith(".safetensors")):
        header = read_header(folder / file)
        if twice := tensors.keys() & header.keys():
            raise CheckpointError(f"{folder}: tensors in more than one file: {', '.join(sorted(twice))}")
        tensors |= header
    expected = expected_tensors(manifest.architecture, manifest.dtype, manifest.quantization)
    if missing := expected.keys() - tensors.keys():
        raise CheckpointError(f"{folder}: missing tensors: {', '.join(sorted(missing))}")
    if leftover := tensors.keys() - expected.keys():
        raise CheckpointError(f"{folder}: leftover tensors: {', '.join(sorted(leftover))}")
    for name, spec in expected.items():
        stored = tensors[name]
        if (stored.shape, stored.dtype) != (spec.shape, spec.dtype):
            raise CheckpointError(f"{folder}: {name} is {stored.dtype} {stored.shape}, not {spec.dtype} {spec.shape}")
    return tensors
