"""One child process of a supervisor: started in its own session, its output passed on line by line."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from common.parent_death import DIE_WITH_PARENT
from common.telemetry.log_lines import JSON, TEXT, as_json, logs_json

READ_BYTES = 1 << 16
OUTPUT_AFTER_EXIT_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChildCommand:
    """What to run: a name for the log, the command line, and variables on top of our own environment."""

    name: str
    command_line: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)


class Child:
    """A running child. It dies with us even when we are killed, if it runs one of our commands."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self._process = process
        self._output = asyncio.create_task(self._pass_output_on(), name=f"output of {name}")

    @classmethod
    async def start(cls, command: ChildCommand) -> "Child":
        """Start `command`, in its own session: a terminal's Ctrl-C is for the supervisor alone."""
        process = await asyncio.create_subprocess_exec(
            *command.command_line,
            env={**os.environ, **_logging_alike(), **command.environ, DIE_WITH_PARENT: str(os.getpid())},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(command.name, process)

    @property
    def pid(self) -> int:
        """The child's process id, also its group's."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child has not ended yet."""
        return self._process.returncode is None

    async def ended(self) -> int:
        """Wait until the child has ended and its output is passed on; return its exit code or -signal."""
        code = await self._process.wait()
        # A grandchild may hold the pipe open for longer.
        await asyncio.wait([self._output], timeout=OUTPUT_AFTER_EXIT_S)
        return code

    async def stop(self, budget_s: float) -> None:
        """Send SIGTERM, wait at most `budget_s`, then kill whatever is left of the child's process group."""
        try:
            if self.running:
                with suppress(ProcessLookupError):
                    self._process.terminate()
                await asyncio.wait_for(self._process.wait(), budget_s)
        except TimeoutError:
            log.warning("%s did not stop within %g s: killing it", self.name, budget_s)
        finally:
            self.kill()
        await self.ended()
        self._output.cancel()

    def kill(self) -> None:
        """Kill the child's whole process group now."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _pass_output_on(self) -> None:
        assert self._process.stdout is not None
        rest, is_json = b"", logs_json()
        prefix = f"[{self.name}] ".encode()

        def written(line: bytes) -> bytes:
            return (as_json(self.name, line) if is_json else prefix + line) + b"\n"

        while data := await self._process.stdout.read(READ_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            _write_to_stderr(b"".join(map(written, lines)))
        if rest:
            _write_to_stderr(written(rest))


def _logging_alike() -> dict[str, str]:
    """Return the variables that have one of our commands log as this process does."""
    level = logging.getLevelName(log.getEffectiveLevel()).lower()
    return {"TANDEM_LOG_LEVEL": level, "TANDEM_LOG_FORMAT": JSON if logs_json() else TEXT}


def _write_to_stderr(data: bytes) -> None:
    with suppress(OSError):  # nobody reads our log any more; the children must not notice
        sys.stderr.buffer.write(data)
        sys.stderr.flush()
