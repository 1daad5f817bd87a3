"""How fast can this machine read memory? Measured in a process of its own, whose threads and memory then go away."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass

import click

PROBE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Bandwidth:
    """Read bandwidth by number of threads, GB/s (10^9 bytes)."""

    gb_per_s: dict[int, float]

    @property
    def peak_gb_per_s(self) -> float:
        """The best of all numbers of threads."""
        return max(self.gb_per_s.values())

    def better(self, other: "Bandwidth") -> "Bandwidth":
        """Return the better of two measurements: what else the machine does only ever makes them worse."""
        return Bandwidth({n: max(rate, other.gb_per_s.get(n, 0.0)) for n, rate in self.gb_per_s.items()})


async def measure_bandwidth() -> Bandwidth:
    """Return the read bandwidth of this machine's memory. Takes a second or two, and 512 MiB.

    Raises click.ClickException when the probe fails.
    """
    probe = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "common.commands.bench.bandwidth_probe",
        # One thread a call: how many threads there are is ours to say, not the BLAS library's.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        stdout, stderr = await asyncio.wait_for(probe.communicate(), PROBE_TIMEOUT_S)
    except TimeoutError:
        raise click.ClickException(f"the bandwidth probe did not end within {PROBE_TIMEOUT_S:g} s") from None
    finally:
        if probe.returncode is None:
            probe.kill()
            await probe.wait()
    if probe.returncode:
        last_line = (stderr.decode(errors="replace").strip() or "no message").splitlines()[-1]
        raise click.ClickException(f"the bandwidth probe failed: {last_line}")
    return Bandwidth({int(threads): rate for threads, rate in json.loads(stdout).items()})
