"""The life of a service process, seen from outside: signals in, order of events and exit code out."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from common.parent_death import DIE_WITH_PARENT

SERVICE = """
import asyncio, logging, sys
import grpc
from common.errors import CheckpointError
from common.health import HealthBoard
from common.process import run_until_signalled, set_up_logging

async def main(drain_s, budget_s, fails):
    server, health = grpc.aio.server(), HealthBoard()
    health.add_to(server)
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await health.set_serving(True)
    failed = asyncio.get_running_loop().create_future() if fails == "future" else asyncio.Event()

    async def drain():
        print("drain", health.serving, flush=True)
        await asyncio.sleep(drain_s)
        print("drained", flush=True)

    def fail():
        failed.set() if fails == "event" else failed.set_exception(CheckpointError("it broke"))

    if fails != "never":
        asyncio.get_running_loop().call_later(0.2, fail)
    asyncio.get_running_loop().call_later(0.01, lambda: print("serving", flush=True))  # signals are handled by then
    await run_until_signalled(server, health, drain, budget_s, failed)
    print("returned", flush=True)

set_up_logging("test")
try:
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(3)
"""


@contextmanager
def service(drain_s: float, budget_s: float, fails: str = "never") -> Iterator[subprocess.Popen[str]]:
    command_line = [sys.executable, "-c", SERVICE, str(drain_s), str(budget_s), fails]
    process = subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        assert process.stdout.readline() == "serving\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_well(number: signal.Signals) -> None:
    with service(drain_s=0.1, budget_s=10) as process:
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=10)
    assert stdout.splitlines() == ["drain False", "drained", "returned"]  # NOT_SERVING before draining
    assert process.returncode == 0
    lines = stderr.splitlines()
    assert [line.split(" ", 3)[1:] for line in lines] == [
        ["INFO", "test", "draining for at most 10 s"],
        ["INFO", "test", "stopped"],
    ]


def test_draining_is_bounded() -> None:
    with service(drain_s=60, budget_s=0.3) as process:
        process.terminate()
        stdout, stderr = process.communicate(timeout=10)
    assert stdout.splitlines() == ["drain False", "returned"]
    assert "drain did not end within 0.3 s" in stderr
    assert process.returncode == 0


def test_a_second_signal_ends_at_once() -> None:
    with service(drain_s=60, budget_s=60) as process:
        process.terminate()
        assert process.stdout and process.stdout.readline() == "drain False\n"
        process.terminate()
        stdout, _ = process.communicate(timeout=10)
    assert stdout.splitlines() == ["returned"]
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("fails", "line"), [("future", "CheckpointError it broke"), ("event", "Unavailable the service failed")]
)
def test_a_failure_ends_without_draining(fails: str, line: str) -> None:
    with service(drain_s=60, budget_s=60, fails=fails) as process:
        stdout, _ = process.communicate(timeout=10)
    assert stdout.splitlines() == [line]
    assert process.returncode == 3


CHILD = """
import os, sys, time
from common.parent_death import die_with_parent_if_told
die_with_parent_if_told()
print(os.getpid(), "TANDEM_DIE_WITH_PARENT" in os.environ, flush=True)
time.sleep(60)
"""
PARENT = f"""
import os, subprocess, sys, time
environ = {{**os.environ, {DIE_WITH_PARENT!r}: sys.argv[1] if len(sys.argv) > 1 else str(os.getpid())}}
sys.exit(subprocess.Popen([sys.executable, "-c", '''{CHILD}'''], env=environ).wait())
"""


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_child_dies_with_its_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, variable_is_left = parent.stdout.readline().split()
    assert variable_is_left == "False"
    parent.kill()
    parent.communicate()
    deadline_s = time.monotonic() + 3
    while alive(int(pid)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not alive(int(pid))


def test_a_child_whose_parent_is_gone_already_does_not_start() -> None:
    result = subprocess.run([sys.executable, "-c", PARENT, "1"], capture_output=True, timeout=10, check=False)
    assert result.returncode == 1
    assert result.stdout == b""


def test_signal_handlers_are_gone_afterwards() -> None:
    """A caller that goes on living (a test, say) gets its Ctrl-C back."""
    import grpc

    from common.health import HealthBoard
    from common.process import run_until_signalled

    async def run() -> None:
        server = grpc.aio.server()
        await server.start()
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)
        await run_until_signalled(server, HealthBoard(), lambda: asyncio.sleep(0), 1.0)

    asyncio.run(run())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
