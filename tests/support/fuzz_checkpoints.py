"""Run as a script: damaged models are opened and read whole, one after the other, in this one process.

`fuzz_checkpoints.py KIND SOUND SCRATCH COUNT`: KIND is gguf or folder, SOUND the sound model. Prints JSON: how many
cases were refused and how many read, every failure that was no TandemError, and how far memory grew at most, as a
multiple of the model's size.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from common.errors import TandemError
from shard_worker.checkpoint.from_gguf import open_gguf
from shard_worker.checkpoint.from_huggingface import open_huggingface
from shard_worker.checkpoint.gguf_file import GgufFile
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.source import ForeignModel
from tests.support import fuzz_folder, fuzz_gguf

Open = Callable[[Path], ForeignModel]


def read_whole(model: ForeignModel) -> None:
    """Read every tensor of the checkpoint that a conversion would write."""
    for name in expected_tensors(model.architecture, "bfloat16", model.quantization):
        for _ in model.tensors.blocks(name):
            pass


def fuzz(kind: str, sound: Path, scratch: Path, count: int) -> dict[str, Any]:
    """Return what became of `count` cases."""
    damage = _GgufCases(sound, scratch) if kind == "gguf" else _FolderCases(sound, scratch)
    open_model: Open = open_gguf if kind == "gguf" else open_huggingface
    read_whole(open_model(sound))
    torch.set_num_threads(1)
    outcome: dict[str, Any] = {"refused": 0, "read": 0, "failures": [], "reasons": {}, "growth": 0.0}
    sound_bytes = _size(sound)
    for case in range(count):
        name, path = damage.case(case)
        before = _begin_peak()
        try:
            read_whole(open_model(path))
            outcome["read"] += 1
        except TandemError as error:
            outcome["refused"] += 1
            outcome["reasons"][name] = str(error)[:200]
            assert str(error).strip()
        except Exception as error:
            outcome["failures"].append(f"{case} {name}: {type(error).__name__}: {error}"[:300])
        growth = (_status("VmHWM") - before) / max(_size(path), sound_bytes)
        if growth > outcome["growth"]:
            outcome |= {"growth": growth, "grown_by": name}
    return outcome


class _GgufCases:
    def __init__(self, sound: Path, scratch: Path) -> None:
        self._data, self._path = sound.read_bytes(), scratch / "damaged.gguf"
        self._places = fuzz_gguf.GgufPlaces(GgufFile(sound), self._data)

    def case(self, seed: int) -> tuple[str, Path]:
        damage = fuzz_gguf.DAMAGES[seed % len(fuzz_gguf.DAMAGES)]
        self._path.unlink(missing_ok=True)  # a file that is mapped still must not shrink
        self._path.write_bytes(damage(bytearray(self._data), self._places, random.Random(seed)))
        return damage.__name__, self._path


class _FolderCases:
    def __init__(self, sound: Path, scratch: Path) -> None:
        self._sound, self._path = sound, scratch / "damaged"

    def case(self, seed: int) -> tuple[str, Path]:
        damage = fuzz_folder.DAMAGES[seed % len(fuzz_folder.DAMAGES)]
        shutil.rmtree(self._path, ignore_errors=True)
        shutil.copytree(self._sound, self._path)
        damage(self._path, random.Random(seed))
        return damage.__name__, self._path


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))


def _begin_peak() -> int:
    """Forget the peak so far, and return the memory in use, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(fuzz(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))))
