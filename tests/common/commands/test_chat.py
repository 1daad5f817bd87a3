"""`tandem chat` in a terminal of its own, against a fake gateway."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.common.conftest import FakeGatewayProcess


class Terminal:
    """A chat in a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        command_line = [sys.executable, "-m", "common.cli.main", "chat", *arguments]
        self.process = subprocess.Popen(
            command_line,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, text: str) -> None:
        """Read until `text` is on the screen; forget what came before it."""
        deadline_s = time.monotonic() + 10
        while text not in self.screen:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0 and select.select([self._master], [], [], left_s)[0], repr(self.screen)
            try:
                self.screen += os.read(self._master, 4096).decode()
            except OSError:
                raise AssertionError(f"the terminal closed after {self.screen!r}") from None
        self.screen = self.screen.partition(text)[2]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(gateway: FakeGatewayProcess, usual_signals: dict[int, Any]) -> Iterator[Terminal]:
    chat = Terminal("--address", gateway.address, "--system", "be kind")
    chat.until("> ")
    yield chat
    chat.close()


def wait_for_log(gateway: FakeGatewayProcess, line: str) -> None:
    deadline_s = time.monotonic() + 5
    while line not in gateway.log and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert line in gateway.log


def test_a_conversation_remembers_until_reset(terminal: Terminal, gateway: FakeGatewayProcess) -> None:
    terminal.type("one\n")
    terminal.until("You said one\r\n")
    terminal.until("> ")
    terminal.type("two\n")
    terminal.until("You said two\r\n")
    history = ["system:be kind", "user:one", "assistant:You said one", "user:two"]
    wait_for_log(gateway, f"request chat {history} 0.0\n")
    terminal.until("> ")
    terminal.type("/reset\n")
    terminal.until("> ")
    terminal.type("three\n")
    terminal.until("You said three\r\n")
    wait_for_log(gateway, "request chat ['system:be kind', 'user:three'] 0.0\n")
    terminal.until("> ")
    terminal.type("/exit\n")
    assert terminal.process.wait(10) == 0


def test_ctrl_c_stops_the_answer_only(terminal: Terminal, gateway: FakeGatewayProcess) -> None:
    terminal.type("slow\n")
    terminal.until("tick tick ")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("(stopped)")
    wait_for_log(gateway, "cancelled\n")
    terminal.until("> ")
    terminal.type("after\n")
    terminal.until("You said after\r\n")
    terminal.until("> ")
    terminal.type("\x04")  # Ctrl-D
    assert terminal.process.wait(10) == 0


def test_an_error_does_not_end_the_conversation(terminal: Terminal, gateway: FakeGatewayProcess) -> None:
    terminal.type("bad\n")
    terminal.until("sampling.temperature: must be at most 100")
    terminal.until("> ")
    terminal.type("fine\n")
    terminal.until("You said fine\r\n")
    wait_for_log(gateway, "request chat ['system:be kind', 'user:fine'] 0.0\n")  # the failed turn is forgotten


def test_a_model_without_template_cannot_chat(gateway_without_template: FakeGatewayProcess) -> None:
    terminal = Terminal("--address", gateway_without_template.address)
    terminal.until("fake has no chat template")
    assert terminal.process.wait(10) == 1
    terminal.close()
