"""Files of torch.save, and what pretends to be one, read by the real child process."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.errors import CheckpointError
from shard_worker.checkpoint import torch_child
from shard_worker.checkpoint.torch_file import ROOT, Unpickler
from tests.support.foreign_checkpoints import save_torch

MIB = 1 << 20


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive as torch.save does, with these bytes as its pickle."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            file.writestr(f"archive/{name}", data)
    return path


def calling_system(command: str) -> bytes:
    """Return a pickle that runs `command` in a shell when a careless reader reads it."""
    return b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command.encode() + b"\x85R."


def unpickler(folder: Path, **limits: float) -> Unpickler:
    return Unpickler(folder, lambda *_: None, **limits)


def test_tensors_come_through_in_a_file_of_their_own(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "a": base,
        "view": base[1:3, ::2],
        "turned": base.t(),
        "half": base.bfloat16(),
        "int8": base.to(torch.int8),
    }
    save_torch(tensors, tmp_path / "m.bin")
    seen: list[tuple[str, int, int]] = []
    path = Unpickler(tmp_path, lambda *stage: seen.append(stage))(tmp_path / "m.bin")
    assert path == tmp_path / "m.bin.safetensors"
    found = load_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert [stage for stage, *_ in seen] == ["reading m.bin"] * len(tensors)
    assert seen[-1][1:] == (total, total)


def test_a_pickle_that_calls_the_shell_calls_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "evil.bin", calling_system(f"touch {tmp_path / 'was-here'}"))
    with pytest.raises(
        CheckpointError, match=r"cannot read .*evil\.bin: torch's weights-only reader refuses it: .*system"
    ):
        unpickler(tmp_path)(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"evil.bin"}


def test_silence_is_ended(tmp_path: Path) -> None:
    save_torch({"a": torch.ones(2)}, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match="nothing happened within 0 s"):
        unpickler(tmp_path, stall_s=0)(tmp_path / "m.bin")


def test_a_child_that_dies_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "m.bin").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CheckpointError, match="the process that read it was ended by SIGSEGV"):
        unpickler(tmp_path)(tmp_path / "m.bin")
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(CheckpointError, match="the process that read it failed with exit code 3"):
        unpickler(tmp_path)(tmp_path / "m.bin")
    (tmp_path / "python").write_text('#!/bin/sh\necho \'{"error": "clear\\u001b[2J"}\'\n')
    with pytest.raises(CheckpointError, match=r"cannot read .*: clear\?\[2J$"):
        unpickler(tmp_path)(tmp_path / "m.bin")
    (tmp_path / "python").write_text("#!/bin/sh\necho 'Infinity'\n")
    with pytest.raises(CheckpointError, match="the process that read it spoke nonsense"):
        unpickler(tmp_path)(tmp_path / "m.bin")


def test_the_child_is_told_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\nenv > {tmp_path / 'env'}\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "m.bin").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    with pytest.raises(CheckpointError):
        unpickler(tmp_path)(tmp_path / "m.bin")
    assert "PATH=" in (tmp_path / "env").read_text() and "secret" not in (tmp_path / "env").read_text()


def test_what_is_no_file_is_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.bin")
    for name in ("absent.bin", "pipe.bin", "x" * 300, "zero\0byte"):
        with pytest.raises(CheckpointError, match="is missing or not a file"):
            unpickler(tmp_path)(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.ones(2)], "it holds list, not a dictionary"),
        ({"a": 1}, "a is int, not a tensor"),
        ({"a": {"b": torch.ones(2)}}, "a is dict, not a tensor"),
        ({"model": [], "model_args": {}}, "its model or model_args is not a dictionary"),
        ({"model": {"a": torch.ones(2)}, "model_args": {}, "ema": 1}, "model is dict, not a tensor"),
        (
            {"model": dict.fromkeys(["a", "_orig_mod.a"], torch.ones(2)), "model_args": {}},
            "with and without the prefix",
        ),
        ({1: torch.ones(2)}, "1 is not a tensor's name"),
        ({"a\nb": torch.ones(2)}, "is not a tensor's name"),
        ({"x" * 300: torch.ones(2)}, "is not a tensor's name"),
        ({"a": torch.tensor(1.0)}, r"a is \[\], which holds no rows"),
        ({"a": torch.ones(0, 3)}, r"a is \[0, 3\], which holds no rows"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, r"a has type torch\.complex64"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is not a plain tensor"),
        ({"a": torch.ones(1).expand(1 << 20)}, "more than 2 times the file's"),
    ],
    ids=str,
)
def test_what_is_not_a_dictionary_of_tensors_is_named(tmp_path: Path, content: object, reason: str) -> None:
    save_torch(content, tmp_path / "m.bin")
    with pytest.raises(CheckpointError, match=reason):
        torch_child.convert(tmp_path / "m.bin", tmp_path / "out")


def test_a_compressed_archive_is_refused_before_it_is_read(tmp_path: Path) -> None:
    bomb = archive(tmp_path / "bomb.bin", bytes(64 * MIB), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < MIB
    with pytest.raises(CheckpointError, match=r"record 'archive/data\.pkl' is compressed"):
        torch_child.convert(bomb, tmp_path / "out")


def test_a_large_pickle_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "large.bin", bytes(torch_child.MAX_PICKLE_BYTES + 1))
    with pytest.raises(CheckpointError, match="a pickle of 67108865 bytes is larger than 67108864"):
        torch_child.convert(path, tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_limits_of_memory_and_time_hold() -> None:
    code = """
import torch
from shard_worker.checkpoint import torch_child
torch_child.CPU_HEADROOM_S = 0
torch_child.limit_process(0)
try:
    torch.empty(1 << 30, dtype=torch.uint8)
except RuntimeError:
    print("bounded", flush=True)
while True:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert (done.stdout, done.returncode) == ("bounded\n", -signal.SIGXCPU)
