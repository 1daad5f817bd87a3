"""The whole system as a user starts it: `tandem up` in a process of its own, and a client of its public API."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import psutil

from common.channel import INTERNAL_MESSAGE_BYTES, client_options
from common.parent_death import DIE_WITH_PARENT
from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub

if TYPE_CHECKING:
    from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub as SyncStub

READY_TIMEOUT_S = 120.0
CONNECT_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Return the environment of a `tandem` process that dies with us."""
    return {
        **os.environ,
        DIE_WITH_PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto"))),
    }


def command_line(*arguments: str, **settings: Any) -> list[str]:
    """Return a `tandem` command line: a tuple repeats its flag, a bool turns it on or off, None leaves it out."""
    line = [sys.executable, "-m", "common.cli.main", *arguments]
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
            continue
        for item in value if isinstance(value, tuple) else (value,):
            line += [f"--{flag}", str(item)]
    return line


class Client:
    """A synchronous client, connected to a gateway. Closing it ends the calls that are open on it."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, client_options(INTERNAL_MESSAGE_BYTES))
        self.stub: SyncStub = InferenceServiceStub(self.channel)
        grpc.channel_ready_future(self.channel).result(CONNECT_TIMEOUT_S)

    def close(self) -> None:
        """End the connection."""
        self.channel.close()


class Cluster:
    """A running `tandem up`. Its log goes to a file, which `log` reads."""

    def __init__(self, log_file: Path, **settings: Any) -> None:
        self._log_file = log_file
        with log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command_line("up", **({"listen": "127.0.0.1:0", "threads": 1} | settings)),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.address = self._read_ready()
        self.client = Client(self.address)

    @property
    def stub(self) -> "SyncStub":
        """The public API."""
        return self.client.stub

    @property
    def log(self) -> str:
        """All that the processes printed so far."""
        return self._log_file.read_text(errors="replace")

    @property
    def gateway(self) -> psutil.Process:
        """The gateway's process."""
        return self._child("gateway")

    @property
    def ranks(self) -> list[psutil.Process]:
        """The ranks' processes, in rank order."""
        found = [child for child in self._children() if "shard" in child.cmdline()]
        return sorted(found, key=lambda child: child.cmdline()[child.cmdline().index("--rank") + 1])

    def terminate(self) -> None:
        """Ask for the end: running streams may finish."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Return the exit code once it has ended."""
        return self._process.wait(timeout_s)

    def close(self) -> None:
        """End everything, whatever it does, and reap it."""
        self.client.close()
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _read_ready(self) -> str:
        assert self._process.stdout
        timer = threading.Timer(READY_TIMEOUT_S, self._process.kill)
        timer.start()
        line = self._process.stdout.readline()
        timer.cancel()
        if not line.startswith("READY "):
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            raise AssertionError(f"`tandem up` did not become ready:\n{self.log}")
        return line.removeprefix("READY ").strip()

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children()

    def _child(self, service: str) -> psutil.Process:
        (found,) = [child for child in self._children() if child.cmdline()[3:5] == ["serve", service]]
        return found


@contextmanager
def running_cluster(**settings: Any) -> Iterator[Cluster]:
    """Run `tandem up` with these settings (flags); its log is attached to whatever the body raises."""
    with tempfile.TemporaryDirectory(prefix="tandem-test-") as folder:
        cluster = Cluster(Path(folder) / "log", **settings)
        try:
            yield cluster
        except BaseException as error:
            error.add_note(f"log of the cluster:\n{cluster.log[-20_000:]}")
            raise
        finally:
            cluster.close()
