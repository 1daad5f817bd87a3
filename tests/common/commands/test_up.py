"""`tandem up` as a process: one READY line, an orderly end, no orphans."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

STAND_IN = Path(__file__).parent / "stand_in_up.py"


class Up:
    """A running stand-in; `log` collects its stderr."""

    def __init__(self, model: Path, listen: str = "127.0.0.1:0", *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, STAND_IN, listen, model, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_RUNTIME_DIR": str(model)},
        )
        assert self.process.stdout and self.process.stderr
        self.log: list[str] = []
        self._reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,))
        self._reader.start()

    def ready_line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline()

    def end(self) -> int:
        """Wait for the end; afterwards `log` is complete."""
        code = self.process.wait(20)
        self._reader.join(10)
        assert self.process.stdout
        assert self.process.stdout.read() == ""  # nothing but READY on stdout
        return code


@contextmanager
def running(model: Path, *arguments: str) -> Iterator[Up]:
    up = Up(model, *arguments)
    children: list[psutil.Process] = []
    try:
        yield up
    finally:
        if up.process.poll() is None:
            children = psutil.Process(up.process.pid).children(recursive=True)
        up.process.kill()
        for child in children:
            child.kill()
        up.process.communicate()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What looks like a checkpoint to whoever only looks for its manifest."""
    (tmp_path / "tandem.json").write_text("{}")
    return tmp_path


def private_folders(model: Path) -> list[Path]:
    return list(model.glob("tandem-*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ready_then_a_signal_ends_everything(model: Path, number: signal.Signals) -> None:
    with running(model) as up:
        host, port = up.ready_line().removeprefix("READY ").strip().split(":")
        with socket.create_connection((host, int(port)), timeout=5):
            pass
        (folder,) = private_folders(model)
        assert folder.stat().st_mode & 0o777 == 0o700
        children = psutil.Process(up.process.pid).children()
        assert len(children) == 3
        assert len({os.getsid(child.pid) for child in children} | {os.getsid(0)}) == 4
        up.process.send_signal(number)
        assert up.end() == 0
        assert "[gateway] stopping\n" in up.log
        assert not any(child.is_running() for child in children)
    assert private_folders(model) == []


def test_a_dead_gateway_ends_everything(model: Path) -> None:
    with running(model) as up:
        up.ready_line()
        children = psutil.Process(up.process.pid).children()
        gateway = next(child for child in children if "fake_gateway" in " ".join(child.cmdline()))
        gateway.kill()
        assert up.end() == 1
        assert any("gateway ended unexpectedly, killed by signal 9" in line for line in up.log)
        assert not any(child.is_running() for child in children)
    assert private_folders(model) == []


def test_a_rank_that_cannot_start_is_named_with_its_last_words(model: Path) -> None:
    with running(model, "127.0.0.1:0", "import sys; sys.exit('no such device')") as up:
        assert up.ready_line() == ""
        assert up.end() == 1
        assert any(line.endswith("] no such device\n") for line in up.log)
        assert any("ended unexpectedly, exit code 1" in line for line in up.log)


def test_kill_9_leaves_no_orphan(model: Path) -> None:
    with running(model) as up:
        up.ready_line()
        children = psutil.Process(up.process.pid).children()
        up.process.kill()
        _, alive = psutil.wait_procs(children, timeout=3)
        assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


def test_a_second_signal_does_not_wait(model: Path) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    with running(model, "127.0.0.1:0", stubborn) as up:
        up.ready_line()
        start_s = time.monotonic()
        up.process.terminate()
        time.sleep(0.5)
        up.process.terminate()
        assert up.end() == 0
        assert time.monotonic() - start_s < 4


def test_a_busy_port_is_one_clear_line(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        listen = f"127.0.0.1:{busy.getsockname()[1]}"
        result = subprocess.run(
            [sys.executable, "-m", "common.cli.main", "up", "--listen", listen, "--model", model],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert result.returncode == 2
    assert result.stderr == f"tandem: --listen {listen}: address already in use\n"
