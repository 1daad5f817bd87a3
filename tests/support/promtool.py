"""Prometheus' own judge of metrics and rules."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def run_promtool(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run promtool, or skip the test where it is not at hand; exit code and output are the caller's to judge."""
    beside = Path(sys.executable).parent / "promtool"
    found = str(beside) if beside.exists() else shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool: `make promtool` fetches it")
    line = [found, *arguments]
    return subprocess.run(line, input=stdin, capture_output=True, text=True, timeout=60, check=False, cwd=cwd)
