"""Symmetric memory: refused off the GPU, agreed on by all ranks or none, small messages only, sums exact."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from common.errors import SettingsError
from shard_worker.collectives import symmetric_memory
from shard_worker.collectives.symmetric_memory import MAX_BYTES, SymmetricMemoryGroup, agree_on_symmetric_memory
from shard_worker.parallel import RankGroup

CPU = torch.device("cpu")


def test_a_cpu_has_none() -> None:
    with pytest.raises(SettingsError, match="not a GPU"):
        SymmetricMemoryGroup(CPU)


def test_small_whole_messages_are_taken() -> None:
    assert SymmetricMemoryGroup.takes(torch.zeros(MAX_BYTES // 4))
    assert not SymmetricMemoryGroup.takes(torch.zeros(MAX_BYTES // 4 + 4))
    assert not SymmetricMemoryGroup.takes(torch.zeros(4097))


def test_none_is_used_when_a_rank_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    votes: list[int] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: votes.append(int(tensor)))
    assert agree_on_symmetric_memory(CPU) is None
    assert votes == [0]


def test_a_group_that_adds_up_wrongly_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for total, usable in ((3.0, True), (2.0, False)):
        fake = SimpleNamespace(all_reduce=lambda part, total=total: torch.full_like(part, total))
        monkeypatch.setattr(symmetric_memory, "SymmetricMemoryGroup", lambda device, fake=fake: fake)
        assert (agree_on_symmetric_memory(CPU) is not None) == usable


def test_the_group_uses_it_for_small_messages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    through_torch: list[int] = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: through_torch.append(tensor.numel()))
    doubled = SimpleNamespace(takes=lambda part: part.numel() <= 8, all_reduce=lambda part: 2 * part)
    group = RankGroup(0, 2, 1, symmetric_memory=doubled)  # type: ignore[arg-type]
    small = group.all_reduce(torch.ones(8, dtype=torch.bfloat16))
    assert small.dtype == torch.bfloat16 and (small == 2).all() and not through_torch
    group.all_reduce(torch.ones(9))
    assert through_torch == [9]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs, each with a process of its own")
def test_two_gpus_meet(tmp_path: Path) -> None:
    body = (
        "import sys, torch; from shard_worker.parallel import form_group; rank = int(sys.argv[1]);"
        "device = torch.device('cuda', rank); torch.cuda.set_device(device);"
        "group = form_group(rank, 2, sys.argv[2], device, 60.0);"
        "assert group.symmetric_memory is not None;"
        "sizes = [64, 65536, 1 << 20];"
        "sums = [group.all_reduce(torch.full((n,), rank + 1.0, device=device)) for n in sizes];"
        "assert all(bool((s == 3).all()) for s in sums); group.close()"
    )
    commands = [[sys.executable, "-c", body, str(rank), f"file://{tmp_path}/meet"] for rank in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(120) for process in processes] == [0, 0]
