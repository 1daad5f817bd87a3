"""A gateway as a process of its own, for tests that start and stop its ranks themselves."""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.commands.listen_address import free_address
from tests.support.cluster import Client, command_line, environment

STATE_TIMEOUT_S = 60.0
POLL_S = 0.05


class GatewayProcess:
    """One `tandem serve gateway`, and a client of it."""

    def __init__(self, log_file: Path, **settings: Any) -> None:
        self._log_file = log_file
        self.address = free_address("127.0.0.1:0")
        with log_file.open("wb") as log:
            self.process = psutil.Popen(
                command_line("serve", "gateway", listen=self.address, **settings),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.client = Client(self.address)
        except BaseException as error:
            error.add_note(f"log of the gateway:\n{self.log}")
            self.process.kill()
            self.process.wait()
            raise

    @property
    def log(self) -> str:
        """All that it printed so far."""
        return self._log_file.read_text(errors="replace")

    @property
    def serving(self) -> bool:
        """Whether it tells probes that it can serve."""
        health = health_pb2_grpc.HealthStub(self.client.channel)
        try:
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_serving(self, serving: bool = True) -> None:
        """Wait until it serves, or until it does not."""
        deadline_s = time.monotonic() + STATE_TIMEOUT_S
        while self.serving != serving:
            assert self.process.poll() is None and time.monotonic() < deadline_s, f"serving is not {serving}"
            time.sleep(POLL_S)

    def close(self) -> None:
        """End it and reap it."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_gateway(model: Path, ranks: Sequence[str], work: Path, **settings: Any) -> Iterator[GatewayProcess]:
    """Run a gateway for ranks at these addresses, there or not; its log is attached to whatever the body raises."""
    gateway = GatewayProcess(work / "gateway.log", model=model, ranks=",".join(ranks), **settings)
    try:
        yield gateway
    except BaseException as error:
        error.add_note(f"log of the gateway:\n{gateway.log}")
        raise
    finally:
        gateway.close()
