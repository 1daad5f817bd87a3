"""Other programs of a bench run: each with a limit of its own, and ended with all it started when that is over."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_TAIL_LINES = 6


class StageFailed(Exception):
    """A stage did not end well; the message says how, with the end of what it printed."""


def output_of(
    command: Sequence[str], limit_s: float, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """Return what `command` prints on stdout. Raises StageFailed when it fails or takes longer than `limit_s`."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            output, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise StageFailed(f"did not end within {limit_s:.0f} s") from None
        finally:
            # A leader that is gone may leave members of its group behind.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        tail = " / ".join((errors.strip() or output.strip()).splitlines()[-_TAIL_LINES:])
        raise StageFailed(f"exit code {process.returncode}: {tail or 'no message'}")
    return output
