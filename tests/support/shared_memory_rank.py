"""One rank of a shared-memory group as a process: `python -m tests.support.shared_memory_rank JOB RANK WORLD FOLDER`.

It needs no torch, so that a test can afford many. What it prints is the test's to read.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import Unavailable
from shard_worker.collectives.agreement import agree_on_shared_memory
from shard_worker.collectives.shared_memory import SLOT_FLOATS, SharedMemoryGroup
from tests.support.folder_store import FolderStore

Floats = npt.NDArray[np.float32]

# Around everything that is a boundary to the vector units, to a run of the sum and to a slot.
SIZES = [1, 2, 3, 7, 8, 17, 63, 64, 65, 575, 576, 577, 2047, 2048, 2049, 16 * 576]
LARGE_SIZES = [SLOT_FLOATS - 1, SLOT_FLOATS, SLOT_FLOATS + 1, 3 * SLOT_FLOATS + 5]
RANDOM_CALLS = 20_000
MAX_RANDOM_FLOATS = 900
POOL_FLOATS = 1 << 19
PATIENCE_S = 3.0


def random_pool(world_size: int) -> Floats:
    """Return float32[world_size, POOL_FLOATS], the same in every process: large and small numbers, whose sum depends on
    the order."""
    random = np.random.default_rng(world_size)
    pool: Floats = random.standard_normal((world_size, POOL_FLOATS), dtype=np.float32)
    pool *= np.float32(10.0) ** random.integers(-4, 5, pool.shape).astype(np.float32)
    return pool


def ordered_sum(parts: Floats) -> Floats:
    """Return ((part 0 + part 1) + part 2) + …, rounded after every addition."""
    total: Floats = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def reduce(group: SharedMemoryGroup, part: Floats, total: Floats) -> None:
    group.all_reduce(part.ctypes.data, total.ctypes.data, part.size)


def check_sums(group: SharedMemoryGroup, rank: int, world_size: int) -> None:
    """Compare the bits of many all-reduces, in place and not, with the sum in rank order."""
    random = np.random.default_rng(0)
    pool = random_pool(world_size)
    sizes = [*SIZES, *LARGE_SIZES, *random.integers(1, MAX_RANDOM_FLOATS, RANDOM_CALLS).tolist()]
    for call, size in enumerate(sizes):
        start = int(random.integers(0, POOL_FLOATS - size))
        parts = pool[:, start : start + size]
        expected = ordered_sum(parts)
        part = parts[rank].copy()
        total = part if call % 2 else np.empty_like(part)
        reduce(group, part, total)
        if total.tobytes() != expected.tobytes():
            sys.exit(f"call {call} of {size} floats is wrong on rank {rank}")
    if world_size > 2 and np.array_equal(ordered_sum(pool), ordered_sum(pool[::-1])):
        sys.exit("these sums do not depend on the order")
    if not 0 < group.take_spent_ns() < 1e12 or group.take_spent_ns() != 0:
        sys.exit("the time spent is wrong")
    print("right", flush=True)


def run_until_lost(group: SharedMemoryGroup, rank: int, world_size: int) -> None:
    """Add up until a rank is lost; print when, on the clock that all processes share, and what is said."""
    part = np.zeros(576, np.float32)
    print("running", flush=True)
    try:
        while True:
            reduce(group, part, part)
    except Unavailable as error:
        print(time.monotonic(), error, flush=True)
    try:
        reduce(group, part, part)
    except Unavailable:
        print("of no more use", flush=True)


def leave_early(group: SharedMemoryGroup, rank: int, world_size: int) -> None:
    """The last rank leaves after one all-reduce, properly; the others go on."""
    part = np.ones(3, np.float32)
    reduce(group, part, part)
    if rank < world_size - 1:
        run_until_lost(group, rank, world_size)


def fall_out_of_step(group: SharedMemoryGroup, rank: int, world_size: int) -> None:
    """Rank 1 adds up one number more than the others."""
    part = np.ones(100 + (rank == 1), np.float32)
    try:
        reduce(group, part, part)
    except Unavailable as error:
        print(error, flush=True)


JOBS: dict[str, Callable[[SharedMemoryGroup, int, int], None]] = {
    "sums": check_sums,
    "run": run_until_lost,
    "leave": leave_early,
    "differ": fall_out_of_step,
}


def main() -> None:
    """Join the group that meets in the folder, and do the job."""
    job, rank, world_size, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    group = agree_on_shared_memory(FolderStore(folder), rank, world_size, "shared-memory", True, PATIENCE_S)
    assert group is not None
    JOBS[job](group, rank, world_size)
    group.close()


if __name__ == "__main__":
    main()
