"""Processes that tests of the command line talk to."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

FAKE_GATEWAY = Path(__file__).parent / "fake_gateway.py"


class FakeGatewayProcess:
    """A running fake gateway; `log` collects what it prints on stderr."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, FAKE_GATEWAY, "127.0.0.1:0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout and self.process.stderr
        self.address = f"127.0.0.1:{int(self.process.stdout.readline())}"
        self.log: list[str] = []
        self._reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,))
        self._reader.start()

    def stop(self) -> None:
        """End it; afterwards `log` is complete."""
        self.process.terminate()
        self.process.wait(10)
        self._reader.join()
        assert self.process.stdout and self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="module")
def gateway() -> Iterator[FakeGatewayProcess]:
    """A fake gateway whose model has a chat template."""
    process = FakeGatewayProcess()
    yield process
    process.stop()


@pytest.fixture(scope="module")
def gateway_without_template() -> Iterator[FakeGatewayProcess]:
    """A fake gateway whose model has none."""
    process = FakeGatewayProcess("--no-template")
    yield process
    process.stop()
