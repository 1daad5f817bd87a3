"""A store for rank groups that are tested without torch: one file a key."""

import time
from pathlib import Path

POLL_S = 0.002


class FolderStore:
    """Strings by key in a folder, seen by every process that has it."""

    def __init__(self, folder: Path, timeout_s: float = 30.0) -> None:
        self._folder = folder
        self._timeout_s = timeout_s

    def set(self, key: str, value: str) -> None:
        """Write once."""
        path = self._path(key)
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(value)
        temporary.rename(path)

    def get(self, key: str) -> bytes:
        """Return what was written, once it is; raises RuntimeError where that takes longer than the timeout."""
        deadline = time.monotonic() + self._timeout_s
        while not self._path(key).exists():
            if time.monotonic() > deadline:
                raise RuntimeError(f"nobody set {key}")
            time.sleep(POLL_S)
        return self._path(key).read_bytes()

    def _path(self, key: str) -> Path:
        return self._folder / key.replace("/", ".")
