"""A folder that appears at once and whole: made under another name beside its place, then renamed."""

import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE


class OutputFolder:
    """The place of a checkpoint, locked against other processes while the checkpoint is made.

    `partial` is the folder to fill; `scratch` is another, for what is needed only on the way. `commit`
    renames `partial` to `path`. Whatever a killed process left behind is removed by the next one that enters.

    Raises CheckpointError when `path` exists and is not a checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.partial = self._beside("partial")
        self.scratch = self._beside("scratch")
        self._previous = self._beside("previous")
        self._lock_file = self._beside("lock")
        self._lock: int | None = None

    @property
    def exists(self) -> bool:
        """Whether a whole checkpoint is in place."""
        return (self.path / MANIFEST_FILE).is_file()

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._lock_file)
            self._recover()
            if not self.exists and self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise CheckpointError(f"{self.path} exists and is not a checkpoint; it is left alone")
            self.partial.mkdir()
            self.scratch.mkdir()
        except BaseException as error:
            self._leave()
            if isinstance(error, OSError):
                raise CheckpointError(f"cannot write {self.path}: {error.strerror or error}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def commit(self) -> None:
        """Put `partial`, whose files must be flushed to disk already, into its place.

        Raises CheckpointError when the place cannot be had; a mount point, for one, cannot be renamed.
        """
        try:
            _flush(self.partial)
            if self.path.exists():
                self.path.rename(self._previous)
            self.partial.rename(self.path)
            _flush(self.path.parent)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror or error}") from error
        shutil.rmtree(self._previous, ignore_errors=True)

    def _beside(self, role: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{role}")

    def _recover(self) -> None:
        # A process killed between commit's two renames left the old checkpoint under another name.
        if self._previous.exists() and not self.path.exists():
            self._previous.rename(self.path)
        for leftover in (self.partial, self.scratch, self._previous):
            if leftover.exists():
                shutil.rmtree(leftover)

    def _leave(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self.partial, ignore_errors=True)
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._lock_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None


def _locked(path: Path) -> int:
    """Wait for the lock file `path` and return its descriptor; closing it, or dying, gives the lock up."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            # The holder before us may have unlinked the file we waited on; then another lock file counts.
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
