"""Run as a script: read 512 MiB again and again with 1 to n threads, and print the best GB/s of each as JSON."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

PROBE_BYTES = 512 << 20
PASSES = 8
MAX_THREAD_COUNTS = 8


def thread_counts(cores: int) -> list[int]:
    """Return the numbers of threads to try: 1, 2, 4, ... and all cores."""
    counts = [1 << power for power in range(MAX_THREAD_COUNTS) if 1 << power < cores]
    return [*counts, cores]


def read_gb_per_s(values: np.ndarray[tuple[int], np.dtype[np.float32]], threads: int, passes: int) -> float:
    """Return the best rate of reading `values` once, split among `threads`.

    A dot product of an array with itself reads each element once, and BLAS does nothing but wait for memory; numpy
    lets other threads run meanwhile.
    """
    parts = np.array_split(values, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(passes):
            start_s = time.perf_counter()
            list(pool.map(lambda part: float(np.dot(part, part)), parts))
            best_s = min(best_s, time.perf_counter() - start_s)
    return values.nbytes / best_s / 1e9


def main(probe_bytes: int = PROBE_BYTES) -> None:
    """Print the rates as one JSON object."""
    values = np.ones(probe_bytes // 4, dtype=np.float32)  # written, or all pages would be the same zero page
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    print(json.dumps({n: read_gb_per_s(values, n, PASSES) for n in thread_counts(cores)}))


if __name__ == "__main__":
    main()
