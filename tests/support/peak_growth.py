"""How much more memory does a `tandem` command take than the same command takes for next to nothing?

Run as a script, with two command lines as JSON: both in this one process, so that what the second one takes at most is
told apart from what imports and thread pools take.
"""

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from common.cli.main import run
from common.commands.bench.memory import peak_resident_bytes
from tests.support.cluster import ROOT, environment

RESET_PEAK = "5"  # of proc(5)'s clear_refs: the largest resident set begins anew at the present one


def peak_growth_bytes(small: list[str], large: list[str]) -> int:
    """Return by how much `large` raises the resident memory, mapped files included, of a process that has run `small`.

    Linux only. Raises CalledProcessError where a command fails.
    """
    command = [sys.executable, "-m", "tests.support.peak_growth", json.dumps(small), json.dumps(large)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def main(small: list[str], large: list[str]) -> int:
    """Run both and print the growth in bytes; return the exit code of one that fails."""
    if code := run(small):
        return code
    gc.collect()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    before_bytes = peak_resident_bytes(os.getpid())
    if code := run(large):
        return code
    after_bytes = peak_resident_bytes(os.getpid())
    assert before_bytes is not None and after_bytes is not None
    print(after_bytes - before_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main(*(json.loads(argument) for argument in sys.argv[1:])))
