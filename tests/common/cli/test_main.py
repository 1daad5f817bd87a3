"""The frame: quick and light help, suggestions, exit codes."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from common.cli import main
from common.cli.lazy_group import LazyCommand
from common.errors import SettingsError

TANDEM = [sys.executable, "-m", "common.cli.main"]


def tandem(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TANDEM, *arguments], capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("group", [(), ("serve",)])
def test_help_imports_no_heavy_module(group: tuple[str, ...]) -> None:
    command_line = [sys.executable, "-X", "importtime", "-m", "common.cli.main", *group, "--help"]
    result = subprocess.run(command_line, capture_output=True, text=True, timeout=30, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"torch", "grpc", "pydantic", "numpy", "yaml", "asyncio"}


def test_help_is_quick_and_names_every_command() -> None:
    durations_s = []
    for _ in range(3):
        start_s = time.perf_counter()
        result = tandem("--help")
        durations_s.append(time.perf_counter() - start_s)
    assert min(durations_s) < 1.0
    assert all(name in result.stdout for name in main.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["genrate"], "generate"),
        (["serve", "gatewya"], "gateway"),
        (["generate", "--max-tokns", "3"], "--max-tokens"),
        (["up", "--max-runing", "3"], "--max-running"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_name(arguments: list[str], suggestion: str) -> None:
    result = tandem(*arguments)
    assert result.returncode == 2
    assert "Did you mean" in result.stderr and suggestion in result.stderr
    assert "Traceback" not in result.stderr


def test_version() -> None:
    result = tandem("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("tandem 0.")


def test_a_settings_error_is_one_line_and_exit_code_2() -> None:
    result = tandem("up", "--tp", "two")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "--tp" in result.stderr


def run_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setitem(main.COMMANDS, "failing", LazyCommand(f"{__name__}:failing", "fails"))
    monkeypatch.setattr(main.tandem, "get_command", lambda ctx, name: failing)
    return main.run(["failing"])


def test_exit_codes_of_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, SettingsError("no such thing")) == 2
    assert capsys.readouterr().err == "tandem: no such thing\n"
    assert run_with(monkeypatch, KeyboardInterrupt()) == 130
    assert run_with(monkeypatch, click.ClickException("gone")) == 1


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with(monkeypatch, OSError(errno.ENOSPC, "No space left on device")) == 1
    assert capsys.readouterr().err == "tandem: [Errno 28] No space left on device\n"
    with pytest.raises(OSError, match="our own bug"):
        run_with(monkeypatch, OSError(errno.EBADF, "our own bug"))


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module, extra in (("torch.nn", "worker"), ("lm_eval.evaluator", "eval")):
        assert run_with(monkeypatch, ModuleNotFoundError("No module", name=module)) == 2
        assert f"pip install 'tandem[{extra}]'" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):
        run_with(monkeypatch, ModuleNotFoundError("No module", name="our_own_bug"))


def test_a_closed_stdout_is_no_error_message() -> None:
    command_line = f"{shlex.join(TANDEM)} --help | true"
    result = subprocess.run(command_line, shell=True, capture_output=True, text=True, timeout=30, check=False)
    assert result.stderr == ""


@pytest.mark.usefixtures("usual_signals")
def test_ctrl_c_ends_with_130() -> None:
    command_line = [*TANDEM, "generate", "--address", "127.0.0.1:1"]  # waits for its prompt on stdin
    process = subprocess.Popen(command_line, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 30
    while "cygrpc" not in Path(f"/proc/{process.pid}/maps").read_text() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(1.0)  # from its last import to reading stdin
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in stderr
