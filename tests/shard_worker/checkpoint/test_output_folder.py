"""A checkpoint appears whole or not at all, whoever is killed and whoever else is at it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE
from shard_worker.checkpoint.output_folder import OutputFolder

ROOT = Path(__file__).parents[3]

# Both make a checkpoint of two files; the first waits, half done, until it is killed.
HALF = """
import sys, time
from pathlib import Path
from shard_worker.checkpoint.output_folder import OutputFolder
with OutputFolder(Path(sys.argv[1])) as output:
    (output.partial / "model.safetensors").write_text("half")
    (output.scratch / "download").write_text("large")
    print("half", flush=True)
    time.sleep(60)
"""
WHOLE = """
import sys, time
from pathlib import Path
from shard_worker.checkpoint.output_folder import OutputFolder
for _ in range(20):
    with OutputFolder(Path(sys.argv[1])) as output:
        (output.partial / "model.safetensors").write_text(sys.argv[2])
        time.sleep(0.005)
        (output.partial / "tandem.json").write_text(sys.argv[2])
        output.commit()
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def fill(output: OutputFolder, text: str) -> None:
    (output.partial / MANIFEST_FILE).write_text(text)
    output.commit()


def test_commit_shows_the_folder_and_nothing_else(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "deep" / "model") as output:
        assert not output.exists
        fill(output, "new")
        assert output.exists
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["model"]


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path / "model") as output:
        (output.partial / "model.safetensors").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with OutputFolder(tmp_path / "model") as output:
            fill(output, text)
    assert (tmp_path / "model" / MANIFEST_FILE).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_killed_process_leaves_what_the_next_one_cleans(tmp_path: Path) -> None:
    with start(HALF, str(tmp_path / "model")) as process:
        assert process.stdout is not None and process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "model").exists()
    assert (tmp_path / ".model.partial" / "model.safetensors").exists()
    with OutputFolder(tmp_path / "model") as output:
        assert list(output.partial.iterdir()) == list(output.scratch.iterdir()) == []
        fill(output, "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert [p.name for p in (tmp_path / "model").iterdir()] == [MANIFEST_FILE]


def test_a_process_killed_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "model") as output:
        fill(output, "old")
    (tmp_path / "model").rename(tmp_path / ".model.previous")
    with OutputFolder(tmp_path / "model") as output:
        assert output.exists
    assert (tmp_path / "model" / MANIFEST_FILE).read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_processes_at_the_same_place_take_turns(tmp_path: Path) -> None:
    processes = [start(WHOLE, str(tmp_path / "model"), text) for text in ("first", "second", "third")]
    for process in processes:
        with process:
            assert process.wait(timeout=60) == 0
    contents = {path.read_text() for path in (tmp_path / "model").iterdir()}
    assert len(contents) == 1, "the files of two processes were mixed"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_place_taken_meanwhile_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"), OutputFolder(tmp_path / "model") as output:
        (tmp_path / ".model.previous").mkdir()
        (tmp_path / ".model.previous" / "in the way").write_text("")
        (tmp_path / "model").mkdir()
        fill(output, "new")


def test_what_is_not_a_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for name in ("home", "file"):
        with (
            pytest.raises(CheckpointError, match="is not a checkpoint; it is left alone"),
            OutputFolder(tmp_path / name),
        ):
            pass
    assert {p.name for p in tmp_path.iterdir()} == {"home", "file"}
    assert (tmp_path / "home" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as output:
        fill(output, "new")
    assert (tmp_path / MANIFEST_FILE).read_text() == "new"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_a_checkpoint_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot write"), OutputFolder(tmp_path / "model"):
        pass


def test_a_parent_that_is_a_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"), OutputFolder(tmp_path / "file" / "model"):
        pass
