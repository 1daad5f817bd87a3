"""Ranks as real processes, started the way a user starts them."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.parent_death import DIE_WITH_PARENT
from tests.support.sync_stream import open_sync_channel

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05
ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING


class RankProcess:
    """One `tandem serve shard` process, or another service's; its output goes to `log_file`."""

    def __init__(
        self,
        address: str,
        log_file: Path,
        arguments: Sequence[str],
        service: str = "shard",
        module: str = "common.cli.main",
    ) -> None:
        self.address = address
        self._log_file = log_file
        environ = {
            **os.environ,
            "GLOO_SOCKET_IFNAME": "lo",
            DIE_WITH_PARENT: str(os.getpid()),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto"))),
        }
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, "serve", service, "--listen", address, *arguments],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """All that it printed so far."""
        return self._log_file.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def health(self) -> int | None:
        """Return what it tells probes (a HealthCheckResponse status), None when it does not answer."""
        with open_sync_channel(self.address) as channel:
            try:
                request = health_pb2.HealthCheckRequest()
                status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=2.0).status
                return status
            except grpc.RpcError:
                return None

    def wait_serving(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until it is SERVING; fails with its log when it ends or takes longer."""
        deadline = time.monotonic() + timeout_s
        while self.health() != SERVING:
            assert self.running and time.monotonic() < deadline, f"{self.address} is not serving:\n{self.log}"
            time.sleep(POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Return its exit code once it has ended, -signal when a signal killed it."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.address} did not end within {timeout_s:g} s:\n{self.log}") from None

    def kill(self) -> None:
        """End it now, whatever it does, and reap it."""
        self._process.kill()
        self._process.wait()


def start_rank(model: Path, work: Path, rank: int = 0, tp: int = 1, **settings: Any) -> RankProcess:
    """Start one rank with its socket, log and rendezvous in `work`; does not wait for it.

    float32, one thread and a small KV cache unless `settings` say otherwise; `module` is run instead of `tandem`'s own.
    """
    defaults = {"dtype": "float32", "threads": 1, "kv_cache_tokens": 4096, "rendezvous": f"file://{work}/rendezvous"}
    address = settings.pop("listen", f"unix:{work}/rank-{rank}.sock")
    module = settings.pop("module", "common.cli.main")
    values = {"model": model, "rank": rank, "tp": tp} | defaults | settings
    arguments = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return RankProcess(address, work / f"rank-{rank}.log", arguments, module=module)


@contextmanager
def rank_group(model: Path, tp: int, **settings: Any) -> Iterator[list[RankProcess]]:
    """Run a whole group; yields its processes in rank order once all of them serve, and ends them afterwards.

    When the body fails, the ranks' logs are attached to the error as notes.
    """
    # Sockets need short paths, which pytest's own folders are not.
    with tempfile.TemporaryDirectory(prefix="tandem-") as name:
        ranks = [start_rank(model, Path(name), rank, tp, **settings) for rank in range(tp)]
        try:
            for rank in ranks:
                rank.wait_serving()
            yield ranks
        except BaseException as error:
            for rank in ranks:
                error.add_note(f"log of {rank.address}:\n{rank.log}")
            raise
        finally:
            for rank in ranks:
                rank.kill()
