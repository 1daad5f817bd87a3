"""How much memory does this machine have to give? Main memory, and that of its GPUs, asked without torch."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
DRM = Path("/sys/class/drm")
NVIDIA_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
NVIDIA_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Machine:
    """What is there: main memory in bytes, None where it is not known, and each GPU's memory in bytes."""

    main_bytes: int | None
    gpu_bytes: tuple[int, ...]


def this_machine() -> Machine:
    """Return what this machine has."""
    return Machine(available_memory_bytes(), gpu_memory_bytes())


def available_memory_bytes() -> int | None:
    """Return the least of what the system has left and what the cgroup allows, or None where neither is known."""
    for line in _read(MEMINFO).splitlines():
        if line.startswith("MemAvailable:"):
            available_bytes = int(line.split()[1]) * 1024
            limit = _read(CGROUP_LIMIT).strip()
            return min(available_bytes, int(limit)) if limit.isdecimal() else available_bytes
    return None


def gpu_memory_bytes() -> tuple[int, ...]:
    """Return the memory of every GPU: AMD's as the kernel tells it, else NVIDIA's as its driver's tool does."""
    sizes = [_read(path).strip() for path in sorted(DRM.glob("card*/device/mem_info_vram_total"))]
    amd_bytes = tuple(int(size) for size in sizes if size.isdecimal())
    return amd_bytes or _nvidia_memory_bytes()


def _nvidia_memory_bytes() -> tuple[int, ...]:
    try:
        told = subprocess.run(NVIDIA_QUERY, capture_output=True, text=True, timeout=NVIDIA_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(line) << 20 for line in told.stdout.split() if line.isdecimal())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
