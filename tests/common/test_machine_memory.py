"""What a machine has to give, as kernel and drivers tell it."""

from pathlib import Path

import pytest

from common import machine_memory
from common.machine_memory import available_memory_bytes, gpu_memory_bytes


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without anything, whose files lie in a folder."""
    monkeypatch.setattr(machine_memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(machine_memory, "CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(machine_memory, "DRM", tmp_path / "drm")
    monkeypatch.setattr(machine_memory, "NVIDIA_QUERY", (str(tmp_path / "nvidia-smi"),))
    return tmp_path


def test_main_memory_is_what_is_left_within_the_cgroup(empty_machine: Path) -> None:
    assert available_memory_bytes() is None
    (empty_machine / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert available_memory_bytes() == 4000 * 1024
    (empty_machine / "memory.max").write_text("max\n")
    assert available_memory_bytes() == 4000 * 1024
    (empty_machine / "memory.max").write_text("1024000\n")
    assert available_memory_bytes() == 1_024_000


def test_gpus_of_either_maker(empty_machine: Path) -> None:
    assert gpu_memory_bytes() == ()
    tool = empty_machine / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 81559\necho 81559\n")
    tool.chmod(0o755)
    assert gpu_memory_bytes() == (81_559 << 20,) * 2
    card = empty_machine / "drm" / "card1" / "device"
    card.mkdir(parents=True)
    (card / "mem_info_vram_total").write_text("68702699520\n")
    assert gpu_memory_bytes() == (68_702_699_520,)


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices were found\n", "not a program"])
def test_a_tool_that_finds_nothing(empty_machine: Path, text: str) -> None:
    tool = empty_machine / "nvidia-smi"
    tool.write_text(text)
    tool.chmod(0o755)
    assert gpu_memory_bytes() == ()
