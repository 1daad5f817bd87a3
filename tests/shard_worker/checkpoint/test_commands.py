"""`tandem download` and `tandem convert`, as a shell sees them."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from common.cli.main import run
from common.manifest import MANIFEST_FILE, read_manifest
from common.model_store import EMBEDDED_MODEL, model_folder
from shard_worker.commands.progress import ProgressBars
from tests.support.foreign_checkpoints import save_safe, tiny_architecture, tiny_weights, write_llama2c

Tandem = Callable[..., "Outcome"]
ROOT = Path(__file__).parents[3]

# A conversion that is half done when its first bytes are counted.
HALF = """
import sys, time
from pathlib import Path
from shard_worker.checkpoint.from_gguf import open_gguf
from shard_worker.checkpoint.output_folder import OutputFolder
from shard_worker.checkpoint.writer import write_checkpoint

def stop_at_first(stage, done_bytes, total_bytes):
    print(stage, flush=True)
    time.sleep(60)

with OutputFolder(Path(sys.argv[2])) as output:
    write_checkpoint(open_gguf(Path(sys.argv[1])), output, "half", "bfloat16", stop_at_first)
"""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def tandem(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs one command line of `tandem`."""

    def run_command(*arguments: str | Path) -> Outcome:
        code = run([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run_command


@pytest.fixture
def gguf(make_model: Callable[..., Any], write_gguf: Callable[..., Path]) -> Path:
    return write_gguf(*make_model())


def test_convert_makes_a_checkpoint(tandem: Tandem, gguf: Path, tmp_path: Path) -> None:
    done = tandem("convert", gguf, "--output", tmp_path / "tiny", "--dtype", "float32")
    assert (done.code, done.out) == (0, f"tiny is ready: {tmp_path / 'tiny'}\n")
    assert done.err.splitlines()[0] == "found: a GGUF file"
    assert done.err.split()[4:] == ["converting", "verifying"]
    manifest, _ = read_manifest(tmp_path / "tiny")
    assert (manifest.name, manifest.dtype, manifest.source) == ("tiny", "float32", "model.gguf")
    again = tandem("convert", gguf, "--output", tmp_path / "tiny")
    assert again.code == 2
    assert again.err == f"tandem: there is a checkpoint in {tmp_path / 'tiny'} already; --force replaces it\n"
    forced = tandem("convert", gguf, "--output", tmp_path / "tiny", "--force", "--name", "other")
    assert forced.code == 0
    manifest, _ = read_manifest(tmp_path / "tiny")
    assert (manifest.name, manifest.dtype) == ("other", "bfloat16")


def test_convert_says_what_is_wrong_in_one_line(tandem: Tandem, tmp_path: Path) -> None:
    (tmp_path / "not.gguf").write_text("hello")
    (tmp_path / "empty").mkdir()
    save_safe({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    for source, reason in (
        ("not.gguf", "does not start with GGUF"),
        ("empty", "there are no weights"),
        ("model.safetensors", "holds weights alone: convert its folder"),
    ):
        done = tandem("convert", tmp_path / source, "--output", tmp_path / "out")
        assert done.code == 2
        assert done.err.startswith("tandem: ") and done.err.count("\n") == 1
        assert reason in done.err
    assert tandem("convert", tmp_path / "absent", "--output", tmp_path / "out").code == 2
    assert {p.name for p in tmp_path.iterdir()} == {"not.gguf", "empty", "model.safetensors"}


def test_convert_of_another_format(tandem: Tandem, tmp_path: Path) -> None:
    architecture = tiny_architecture()
    stories = write_llama2c(tmp_path / "c", architecture, tiny_weights(architecture), 0)
    done = tandem("convert", stories, "--output", tmp_path / "tiny", "--context-length", "8")
    assert done.code == 2 and "--context-length are not for a model file of llama2.c" in done.err
    done = tandem("convert", stories, "--output", tmp_path / "tiny")
    assert done.code == 0 and done.err.startswith("found: a model file of llama2.c\n")
    assert {path.name for path in (tmp_path / "tiny").iterdir()} >= {"model.safetensors", "tokenizer.model"}


def test_a_killed_conversion_leaves_no_checkpoint_and_the_next_one_cleans_up(
    tandem: Tandem, gguf: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tiny"
    command = [sys.executable, "-c", HALF, str(gguf), str(output)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "converting\n"
        process.send_signal(signal.SIGKILL)
    assert not output.exists()
    assert (tmp_path / ".tiny.partial" / "model.safetensors").exists()
    assert tandem("convert", gguf, "--output", output).code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"model.gguf", "tiny"}


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda kind: kind.name)
@pytest.mark.parametrize("command", ["convert", "download"])
def test_a_signal_takes_away_what_is_half_made(
    tandem: Tandem,
    gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    usual_signals: dict[int, Any],
    command: str,
    kind: signal.Signals,
) -> None:
    stages = []

    def signalled(self: ProgressBars, stage: str, done_bytes: int, total_bytes: int) -> None:
        stages.append(stage)
        assert list((tmp_path / "models").glob(".*.partial/model.safetensors"))
        signal.raise_signal(kind)

    monkeypatch.setattr(ProgressBars, "__call__", signalled)
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    place = ["--output", tmp_path / "models" / "tiny"] if command == "convert" else []
    done = tandem(command, gguf, *place)
    assert (done.code, stages) == (130, ["converting"])
    assert list((tmp_path / "models").iterdir()) == []
    assert {kind: signal.getsignal(kind) for kind in usual_signals} == usual_signals


def test_download_does_nothing_when_the_model_is_there(
    tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    folder = model_folder(EMBEDDED_MODEL)
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).write_text("whatever")
    done = tandem("download")
    assert (done.code, done.out) == (0, f"{EMBEDDED_MODEL} is there already: {folder}\n")
    checked = tandem("download", "--verify")
    assert checked.code == 2
    assert "is not a valid manifest" in checked.err


def test_download_refuses_names_it_does_not_know(
    tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    for name, reason in (
        ("gpt5", "is neither 'smollm2-135m-instruct' nor"),
        ("", "is neither 'smollm2-135m-instruct' nor"),
        ("../x", "there is nothing at ../x, and it is no repository id"),
        ("a/b/c", "there is nothing at a/b/c"),
    ):
        done = tandem("download", name)
        assert done.code == 2
        assert reason in done.err and done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_download_takes_a_path(tandem: Tandem, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    done = tandem("download", gguf)
    assert (done.code, done.out) == (0, f"{gguf.stem} is ready: {model_folder(gguf.stem)}\n")
    assert read_manifest(model_folder(gguf.stem))[0].name == gguf.stem
    assert tandem("download", gguf).out == f"{gguf.stem} is there already: {model_folder(gguf.stem)}\n"
    template = model_folder(gguf.stem) / "chat_template.jinja"
    assert template.read_text() == "{{ messages }}", "as the file has it"
    refused = tandem("download", gguf, "--chat-template", "llama-3")
    assert refused.code == 2 and "--force fetches it again" in refused.err
    refused = tandem("download", gguf, "--chat-template", "llama-33", "--force")
    assert refused.code == 2 and "nor one of llama-2, llama-3" in refused.err
    assert tandem("download", gguf, "--chat-template", "llama-2", "--force").code == 0
    assert "[INST]" in template.read_text()


def test_what_was_made_here_is_verified_and_not_replaced(
    tandem: Tandem, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    assert tandem("convert", gguf, "--output", model_folder("mine")).code == 0
    assert tandem("download", "mine", "--verify").out == f"mine is there already, and whole: {model_folder('mine')}\n"
    forced = tandem("download", "mine", "--force")
    assert (forced.code, forced.err) == (2, "tandem: mine was made here: there is nothing to fetch it from\n")
