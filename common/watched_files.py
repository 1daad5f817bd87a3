"""Files that are read anew when they change: certificates, token hashes"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from common.errors import SettingsError

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int, int], ...]

LOOK_EVERY_S = 1.0
# Files that are being replaced while they are read are read again, at most so often at once.
ATTEMPTS = 3

log = logging.getLogger(__name__)


class WatchedFiles(Generic[T]):
    """What `read` made of `paths` the last time that they could be read. May be used from any thread.

    Files are looked at (inode, time and size) when the value is asked for, at most once in `look_every_s`. Where new
    content cannot be read the old value stays, and the reason is logged once.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T], look_every_s: float = LOOK_EVERY_S) -> None:
        """Read for the first time. Raises SettingsError when that fails."""
        self._paths = tuple(paths)
        self._read = read
        self._look_every_s = look_every_s
        self._lock = threading.Lock()
        self._stamp, self._value = self._read_whole()
        self._look_at_s = time.monotonic() + look_every_s

    @property
    def value(self) -> T:
        """The newest value; the same object until the files change."""
        with self._lock:
            if time.monotonic() >= self._look_at_s:
                self._look()
                self._look_at_s = time.monotonic() + self._look_every_s
            return self._value

    def _look(self) -> None:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        try:
            self._stamp, self._value = self._read_whole()
        except SettingsError as error:
            self._stamp = stamp
            log.error("what was read before stays in use: %s", error)
        else:
            log.info("read anew: %s", ", ".join(map(str, self._paths)))

    def _read_whole(self) -> tuple[Stamp, T]:
        """Read until nothing changed meanwhile: files of one set must belong together."""
        for _ in range(ATTEMPTS):
            stamp = self._stamp_now()
            try:
                value = self._read()
            except OSError as error:
                raise SettingsError(
                    f"cannot read {error.filename}: {(error.strerror or str(error)).lower()}"
                ) from error
            if self._stamp_now() == stamp:
                return stamp, value
        raise SettingsError(f"{self._paths[0]} changes all the time")

    def _stamp_now(self) -> Stamp:
        return tuple(_stamp(path) for path in self._paths)


def _stamp(path: Path) -> tuple[int, int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0, 0)
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
