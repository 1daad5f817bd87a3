"""Can ranks run here? Prints one finding a line, as JSON, for `tandem doctor`.

Run as `python -m shard_worker.selftest`. Two ranks meet for one all_reduce in child processes of their own,
so that a collective that hangs can be ended.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta

from common.commands.findings import Finding
from common.errors import SettingsError
from shard_worker.collectives.segment import Segment, new_name, unlink
from shard_worker.collectives.shared_memory import load_library, segment_bytes

RANKS = 2
RANK_TIMEOUT_S = 60.0


def findings() -> Iterator[Finding]:
    """Yield what there is to say about torch, its devices and its collectives."""
    try:
        import torch
    except ImportError as error:
        advice = "a gateway needs none; for ranks: pip install 'tandem[worker]'"
        yield Finding("warn", "torch", f"cannot be imported ({error})", advice)
        return
    yield Finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")
    kind = "ROCm" if torch.version.hip else "CUDA"
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(devices):
        properties = torch.cuda.get_device_properties(index)
        memory_gib = properties.total_memory / (1 << 30)
        yield Finding("ok", f"{kind} {index}", f"{properties.name}, {memory_gib:.1f} GiB")
    if not devices:
        yield Finding("ok", "devices", "no GPU that torch can use: ranks run on the CPU")
    yield check_collective("nccl" if devices >= RANKS else "gloo")
    yield check_shared_memory()


def check_shared_memory() -> Finding:
    """See whether ranks of this host can add up through shared memory."""
    name = new_name()
    try:
        Segment.create(name, segment_bytes(load_library(), RANKS)).close()
    except (SettingsError, OSError) as error:
        return Finding("warn", "/dev/shm", str(error), "ranks will add up by torch.distributed, many times slower")
    finally:
        unlink(name)
    return Finding("ok", "/dev/shm", "ranks of this host can add up through shared memory")


def check_collective(backend: str) -> Finding:
    """Let two ranks sum their numbers over `backend`."""
    subject = f"{backend} x{RANKS}"
    environ = {"GLOO_SOCKET_IFNAME": "lo", **os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="tandem-selftest-") as folder:
        ranks = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "shard_worker.selftest",
                    backend,
                    str(rank),
                    f"file://{folder}/rendezvous",
                ],
                env=environ,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(RANKS)
        ]
        try:
            errors = [rank.communicate(timeout=RANK_TIMEOUT_S)[1] for rank in ranks]
        except subprocess.TimeoutExpired:
            return Finding("fail", subject, f"all_reduce did not end within {RANK_TIMEOUT_S:g} s", "is lo up?")
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()
    for number, (rank, error) in enumerate(zip(ranks, errors, strict=True)):
        if rank.returncode:
            last_line = (error.strip().splitlines() or ["no output"])[-1]
            return Finding("fail", subject, f"rank {number}: exit code {rank.returncode}: {last_line}")
    return Finding("ok", subject, "all_reduce is right")


def run_rank(backend: str, rank: int, rendezvous: str) -> None:
    """Take part in one all_reduce and check its result."""
    import torch
    import torch.distributed as dist

    dist.init_process_group(
        backend,
        init_method=rendezvous,
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=RANK_TIMEOUT_S / 2),
    )
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    number = torch.tensor([rank + 1.0], device=device)
    dist.all_reduce(number)
    expected = sum(range(1, RANKS + 1))
    dist.destroy_process_group()
    if number.item() != expected:
        sys.exit(f"all_reduce gave {number.item()}, not {expected}")


def main() -> None:
    """Check everything, or be one rank of the check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rank", nargs="*", metavar="BACKEND RANK RENDEZVOUS", help="be one rank")
    arguments = parser.parse_args().rank
    if arguments:
        backend, rank, rendezvous = arguments
        run_rank(backend, int(rank), rendezvous)
        return
    for finding in findings():
        print(finding.to_json(), flush=True)


if __name__ == "__main__":
    main()
