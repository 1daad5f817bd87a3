"""How many KV blocks a rank takes."""

from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import SettingsError
from common.manifest import Architecture, Rope
from shard_worker import memory
from shard_worker.partition import partition
from shard_worker.settings import ShardSettings

ARCH = Architecture(
    family="llama",
    layers=2,
    hidden_size=64,
    intermediate_size=64,
    query_heads=4,
    kv_heads=2,
    head_dim=16,
    vocabulary_size=64,
    context_length=1000,
    norm_eps=1e-5,
    rope=Rope(theta=10_000.0),
    tied_embeddings=True,
)
BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 4


def blocks(**settings: Any) -> int:
    made = ShardSettings(model=Path("unused"), **settings)
    part = partition(ARCH, made.rank, made.tp)
    return memory.size_kv_cache(made, ARCH, part, torch.float32, torch.device("cpu"))


def meminfo(monkeypatch: pytest.MonkeyPatch, folder: Path, available_bytes: int) -> None:
    """Let the kernel say that so much memory is available."""
    file = folder / "meminfo"
    file.write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {available_bytes >> 10} kB\n")
    monkeypatch.setattr(memory, "MEMINFO", file)


def test_what_is_set_is_taken_in_whole_blocks() -> None:
    assert blocks(kv_cache_tokens=32) == 2
    assert blocks(kv_cache_tokens=33) == 3
    assert blocks(kv_cache_tokens=1, block_size_tokens=128) == 1


def test_by_default_a_share_of_what_is_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo(monkeypatch, tmp_path, available_bytes=4 * 3200 * BYTES_PER_TOKEN)
    assert blocks() == 3200 // 16
    # Half of the host's share is each rank's, and each position takes half as much.
    assert blocks(tp=2) == 3200 // 16


def test_a_default_has_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo(monkeypatch, tmp_path, available_bytes=1 << 40)
    assert blocks() * 16 == memory.CPU_DEFAULT_TOKENS


def test_a_default_that_cannot_hold_one_context_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meminfo(monkeypatch, tmp_path, available_bytes=4 * 999 * BYTES_PER_TOKEN)
    with pytest.raises(SettingsError, match="there is room for 999 tokens; set kv_cache_tokens"):
        blocks()
    assert blocks(kv_cache_tokens=100) == 7


def test_without_meminfo_the_free_pages_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "missing")
    assert blocks() >= 1000 // 16
