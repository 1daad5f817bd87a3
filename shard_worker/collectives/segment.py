"""The piece of memory that the ranks of one host share, and the locks that tell who is alive.

It is a file of /dev/shm, as shm_open makes them, and has a name only until all ranks have mapped it: the kernel frees
the rest when the last rank ends, however it ends.
"""

import fcntl
import mmap
import os
import re
import secrets
import stat
import time
from pathlib import Path

FOLDER = Path("/dev/shm")
_NAME = re.compile(r"tandem-[0-9a-f]{32}")
# Far longer than ranks take between making a segment and mapping it.
STALE_S = 600.0


def new_name() -> str:
    """Return a name that nobody can guess."""
    return f"tandem-{secrets.token_hex(16)}"


class Segment:
    """One rank's mapping of a segment. Raises OSError where the segment cannot be made, found or used.

    Each rank holds a lock on the byte whose offset is its number. POSIX record locks belong to the process and go with
    it, also across PID namespaces, unlike process ids; the file must therefore be open once in a process.
    """

    def __init__(self, file: int, size_bytes: int, rank: int) -> None:
        self.file = file
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
            self.memory = mmap.mmap(file, size_bytes, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        except BaseException:
            os.close(file)
            raise

    @classmethod
    def create(cls, name: str, size_bytes: int) -> "Segment":
        """Make the segment, zeroed, for this user alone, and map it as rank 0. The name is the caller's to unlink."""
        file = os.open(FOLDER / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # Without memory behind every page, a full /dev/shm would be a SIGBUS in the middle of a step.
            os.posix_fallocate(file, 0, size_bytes)
        except BaseException:
            os.close(file)
            raise
        return cls(file, size_bytes, 0)

    @classmethod
    def attach(cls, name: str, size_bytes: int, rank: int) -> "Segment":
        """Map the segment that rank 0 made."""
        if not _NAME.fullmatch(name):
            raise OSError(f"{name!r} is not the name of a segment")
        file = os.open(FOLDER / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        status = os.fstat(file)
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_size == size_bytes
        if not ours:
            os.close(file)
            raise OSError(f"{name} is not a segment of {size_bytes} bytes of this user")
        return cls(file, size_bytes, rank)

    def close(self) -> None:
        """Unmap, and let go of the lock: to the others this rank has ended."""
        self.memory.close()
        os.close(self.file)


def unlink(name: str) -> None:
    """Remove the name, if it is still there; mappings stay."""
    (FOLDER / name).unlink(missing_ok=True)


def remove_stale() -> None:
    """Remove what ranks left that were killed in the moment between making a segment and mapping it."""
    for path in FOLDER.glob("tandem-*"):
        try:
            status = path.stat(follow_symlinks=False)
            if _NAME.fullmatch(path.name) and status.st_uid == os.geteuid() and time.time() - status.st_mtime > STALE_S:
                path.unlink()
        except OSError:  # another rank 0 was quicker
            continue
