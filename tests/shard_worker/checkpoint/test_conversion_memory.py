"""A conversion holds less than 1.3 times its largest file: the child that reads it, and the converter, each."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shard_worker.checkpoint.from_meta import consolidated_shards, open_meta
from shard_worker.checkpoint.torch_file import ROOT
from tests.support.foreign_checkpoints import (
    PARAMS,
    save_safe,
    save_torch,
    tiny_architecture,
    tiny_weights,
    write_meta,
)

MIB = 1 << 20
MAX_RATIO = 1.3
CHILD = """
import os, sys
from common.commands.bench.memory import peak_resident_bytes
from shard_worker.checkpoint.torch_child import main
main(sys.argv[1:])
print(peak_resident_bytes(os.getpid()))
"""


def child_peak_bytes(path: Path, output: Path) -> int:
    """Return the most memory that a child had which read `path`.

    It says so itself: the largest set of which wait4 tells begins with that of the process that started the child.
    """
    command = [sys.executable, "-c", CHILD, str(path), str(output)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    *_, told, peak_bytes = done.stdout.splitlines()
    assert json.loads(told) == {"error": None}
    return int(peak_bytes)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/status")
def test_the_child_holds_pages_of_the_mapped_file_and_a_block(tmp_path: Path) -> None:
    peaks = {}
    for num_mib in (1, 128):
        path = tmp_path / f"{num_mib}.bin"
        save_torch({f"layers.{i}": torch.ones(num_mib, 1 << 15) for i in range(8)}, path)
        peaks[num_mib] = child_peak_bytes(path, tmp_path / f"{num_mib}.safetensors")
    assert (tmp_path / "128.safetensors").stat().st_size > 128 * MIB
    assert peaks[128] - peaks[1] < MAX_RATIO * 128 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/clear_refs")
def test_the_converter_holds_a_few_blocks(tmp_path: Path, write: Callable[..., Any]) -> None:
    changes = {"hidden_size": 1024, "head_dim": 256, "intermediate_size": 2048, "vocabulary_size": 20_000}
    folder = tmp_path / "meta"
    write_large(folder, changes)
    shards = consolidated_shards(folder)
    shard_bytes = max(path.stat().st_size for path in shards)
    assert shard_bytes > 96 * MIB
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before_bytes = _memory_bytes("VmRSS")
    write(open_meta(shards, lambda path: path, context_length=128), tmp_path / "ours", "bfloat16")
    assert _memory_bytes("VmHWM") - before_bytes < MAX_RATIO * shard_bytes


def write_large(folder: Path, changes: dict[str, Any]) -> None:
    """Make two shards of the tiny model with these changes; its weights are gone when it returns."""
    architecture = tiny_architecture(**changes)
    write_meta(folder, architecture, tiny_weights(architecture), ranks=2, save=save_safe)
    params = {"dim": 1024, "hidden_dim": 2048, "multiple_of": None, "ffn_dim_multiplier": None}
    (folder / "params.json").write_text(json.dumps(PARAMS | params))


def _memory_bytes(key: str) -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[key].split()[0]) * 1024
