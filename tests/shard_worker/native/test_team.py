"""A team of threads goes on without those that lost their core, and what these computed counts once."""

import subprocess
import sys
from pathlib import Path

from shard_worker.native import build
from shard_worker.native.compiler import Unit, build_library

LATE_THREADS = Path(__file__).parent / "csrc" / "late_threads.cpp"
CALL = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).tandem_late_threads())"


def test_nobody_waits_for_a_thread_that_is_late_and_its_work_counts_once() -> None:
    units = [Unit(LATE_THREADS, (f"-I{build.SOURCES}",)), Unit(build.SOURCES / "team.cpp")]
    library = build_library("late-threads", units)
    jobs = subprocess.run([sys.executable, "-c", CALL, library], timeout=300, check=False)  # a team that waits hangs
    assert jobs.returncode == 0, f"{jobs.returncode} jobs went wrong"
