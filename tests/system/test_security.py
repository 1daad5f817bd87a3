"""`tandem up` with TLS and tokens, called by `tandem generate`; and what it refuses to start."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from common.cli.main import tandem
from tests.support.certificates import Authority
from tests.support.cluster import READY_TIMEOUT_S, STOP_TIMEOUT_S, command_line, environment
from tests.support.tiny_model import TinyModel

TANDEM = [sys.executable, "-m", "common.cli.main"]


def test_up_serves_those_who_show_a_token(tiny_model: TinyModel, tmp_path: Path) -> None:
    files = Authority(tmp_path).issue("server", "localhost")
    made = CliRunner().invoke(tandem, ["token", "acme", "--out", str(tmp_path / "token"), "--max-streams", "1"])
    (tmp_path / "tenants.yaml").write_text(made.stdout)
    line = command_line(
        "up", model=tiny_model.folder, listen="localhost:0", threads=1, kv_cache_tokens=4096,
        tls_cert=files.cert, tls_key=files.key, tenants=tmp_path / "tenants.yaml",
    )  # fmt: skip
    up = subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(READY_TIMEOUT_S, up.kill)
    timer.start()
    assert up.stdout
    address = up.stdout.readline().removeprefix("READY ").strip()
    try:
        flags = ["generate", "--address", address, "--max-tokens", "8", "--no-chat", "--ignore-eos", "a"]
        tls = ["--tls-ca", str(files.ca)]
        good = run(*flags, *tls, "--token-file", str(tmp_path / "token"))
        assert good.returncode == 0, good.stderr
        without = run(*flags, *tls)
        assert without.returncode == 1 and "unauthenticated: a valid token is needed" in without.stderr
        assert run(*flags).returncode == 1, "plaintext"
    finally:
        up.terminate()
        _, log = up.communicate(timeout=STOP_TIMEOUT_S)
        timer.cancel()
    assert up.returncode == 0, log
    assert (tmp_path / "token").read_text().strip() not in log


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = [*TANDEM, *arguments]
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "flags, named",
    [
        ([], "--allow-plaintext"),
        (["--allow-plaintext"], "--allow-anonymous"),
    ],
)
def test_up_refuses_open_doors(flags: list[str], named: str, tiny_model: TinyModel) -> None:
    refused = run("up", "--model", str(tiny_model.folder), "--listen", "0.0.0.0:0", *flags)
    assert refused.returncode == 2 and named in refused.stderr
    assert refused.stdout == ""
