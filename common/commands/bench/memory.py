"""How much memory did a process take at most?"""

import re
from pathlib import Path

PROC = Path("/proc")


def peak_resident_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the largest resident set of a running process, mapped files included, or None where it is not known.

    Linux only: VmHWM of proc(5). Memory of an accelerator is not part of it.
    """
    try:
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        return None
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(peak[1]) * 1024 if peak else None
