"""`tandem doctor`: what it finds, and that every failure says what to do."""

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.commands import doctor_checks
from common.commands.findings import Finding, read_finding
from tests.support.tiny_manifest import tiny_manifest


def test_the_whole_command_with_a_missing_model_and_a_taken_port(tmp_path: Path) -> None:
    """Runs two real ranks through one all_reduce; their findings arrive through a pipe."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        result = subprocess.run(
            [sys.executable, "-m", "common.cli.main", "doctor", "--listen", listen, "--model", "nowhere/at-all"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    lines = {line[5:17].strip(): line for line in result.stdout.splitlines()}
    assert result.returncode == 1
    assert lines["listen"].startswith("fail") and "->" in lines["listen"]
    assert lines["model"].startswith("warn") and "tandem download" in lines["model"]
    assert all(lines[name].startswith("ok") for name in ("python", "grpcio", "protobuf", "torch", "cpu"))
    assert any("all_reduce is right" in line for line in lines.values())


def test_doctor_itself_stays_without_torch() -> None:
    code = "import sys, common.commands.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    weights = b"not weights"
    files = {"model.safetensors": {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}}
    manifest = tiny_manifest({}, files=files)
    (tmp_path / "tandem.json").write_text(json.dumps(manifest))
    (tmp_path / "model.safetensors").write_bytes(weights)
    return tmp_path


def model_finding(name: str) -> Finding:
    (finding,) = [f for f in doctor_checks.check_model(name) if f.subject == "model"]
    return finding


def test_a_whole_checkpoint_is_ok_and_a_damaged_one_fails(checkpoint: Path) -> None:
    assert model_finding(str(checkpoint)).level == "ok"
    (checkpoint / "model.safetensors").write_bytes(b"short")
    assert model_finding(str(checkpoint)).level == "fail"
    (checkpoint / "model.safetensors").unlink()
    assert model_finding(str(checkpoint)).level == "fail"
    (checkpoint / "tandem.json").write_text("{}")
    assert model_finding(str(checkpoint)).level == "warn"


def test_a_draft_must_have_the_model_s_vocabulary(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    text = (checkpoint / "tandem.json").read_text()
    (other / "tandem.json").write_text(text.replace('"vocabulary_size": 16', '"vocabulary_size": 17'))
    assert doctor_checks.check_draft(str(checkpoint), str(checkpoint)).level == "ok"
    finding = doctor_checks.check_draft(str(other), str(checkpoint))
    assert finding.level == "fail" and "another vocabulary" in finding.text
    assert doctor_checks.check_draft("nowhere", str(checkpoint)).level == "warn"


def test_a_missing_package_and_a_slow_protobuf_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "PACKAGES", ("no-such-package-of-ours",))
    monkeypatch.setattr("google.protobuf.internal.api_implementation.Type", lambda: "python")
    levels = {finding.subject: finding for finding in doctor_checks.check_software()}
    assert levels["no-such-package-of-ours"].level == "fail"
    assert levels["protobuf"].level == "warn"


def test_a_self_test_that_hangs_or_dies_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "SELFTEST_TIMEOUT_S", 0.01)
    assert [finding.level for finding in doctor_checks.check_torch()] == ["fail"]
    monkeypatch.setattr(doctor_checks, "SELFTEST_TIMEOUT_S", 20.0)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (finding,) = doctor_checks.check_torch()
    assert finding == Finding("fail", "ranks", "self-test ended with exit code 1: no output")


def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_checks, "available_memory_bytes", lambda: 1 << 20)
    assert [f.level for f in doctor_checks.check_hardware() if f.subject == "memory"] == ["warn"]


def test_findings_travel_as_lines() -> None:
    finding = Finding("warn", "torch", "is missing", "install it")
    assert read_finding(finding.to_json()) == finding
    assert read_finding("some library's chatter") is None
    assert read_finding('{"level": "ok"}') is None
    assert finding.line() == "warn torch        is missing -> install it"
