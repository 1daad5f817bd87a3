"""All ranks take shared memory, or none does, and each says why."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import SettingsError
from shard_worker.collectives.agreement import Collectives, agree_on_shared_memory
from shard_worker.collectives.segment import FOLDER, Segment, new_name, unlink
from shard_worker.collectives.shared_memory import SharedMemoryGroup
from tests.support.folder_store import FolderStore
from tests.support.segments import assert_none_left, segments

WORLD_SIZE = 3
TIMEOUT_S = 5.0


def agree(
    folder: Path, wanted: tuple[Collectives, ...] = ("auto", "auto", "auto"), on_cpu: bool = True
) -> list[SharedMemoryGroup | BaseException | None]:
    """Let three ranks, each on a thread, agree; return what each got, or what it raised."""

    def one(rank: int) -> SharedMemoryGroup | BaseException | None:
        try:
            store = FolderStore(folder, TIMEOUT_S)
            return agree_on_shared_memory(store, rank, WORLD_SIZE, wanted[rank], on_cpu, TIMEOUT_S)
        except (SettingsError, RuntimeError) as error:
            return error

    with ThreadPoolExecutor(WORLD_SIZE) as threads:
        return list(threads.map(one, range(WORLD_SIZE)))


def assert_told(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Every rank has one line to say, and the same."""
    assert [record.getMessage() for record in caplog.records] == [f"collectives: {text}"] * WORLD_SIZE


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_ranks_of_one_host_share_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    groups = agree(tmp_path)
    assert all(isinstance(group, SharedMemoryGroup) for group in groups)
    assert_told(caplog, "shared memory")
    for group in groups:
        assert isinstance(group, SharedMemoryGroup)
        function, handle = group.entry_point
        assert function and handle
        group.close()


def test_one_that_is_set_to_torch_decides_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert agree(tmp_path, ("auto", "auto", "torch")) == [None] * WORLD_SIZE
    assert_told(caplog, "torch.distributed (rank 2: set to torch)")


def test_ranks_on_gpus_do_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert agree(tmp_path, on_cpu=False) == [None] * WORLD_SIZE
    assert_told(caplog, "torch.distributed (rank 0: not on a CPU)")


def test_without_a_compiler_torch_adds_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert agree(tmp_path) == [None] * WORLD_SIZE
    assert_told(caplog, "torch.distributed (rank 0: no C++ compiler (c++, g++, clang++): install g++, or set CXX)")


def test_what_was_insisted_on_must_be_had(tmp_path: Path) -> None:
    first, second, third = agree(tmp_path, ("auto", "shared-memory", "torch"))
    assert first is None and third is None
    assert isinstance(second, SettingsError)
    assert str(second) == "collectives cannot go through shared memory: rank 2: set to torch"


def test_a_rank_that_does_not_see_the_segment_decides_for_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another host, or in a container with a /dev/shm of its own."""
    attach = Segment.attach

    def attach_elsewhere(name: str, size_bytes: int, rank: int) -> Segment:
        return attach(name if rank == 1 else new_name(), size_bytes, rank)

    monkeypatch.setattr(Segment, "attach", attach_elsewhere)
    before = segments()
    assert agree(tmp_path) == [None] * WORLD_SIZE
    assert_told(caplog, "torch.distributed (rank 2: no shared segment: No such file or directory)")
    assert_none_left(before)


def test_no_room_in_shared_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = segments()
    assert agree(tmp_path) == [None] * WORLD_SIZE
    assert_told(caplog, "torch.distributed (rank 0: no shared segment: No space left on device)")
    assert_none_left(before)


def test_a_rank_that_never_comes_is_an_error_in_time(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nobody set collectives/able/1"):
        agree_on_shared_memory(FolderStore(tmp_path, 0.2), 0, 2, "auto", True, TIMEOUT_S)


@pytest.mark.parametrize("name", ["", "../etc/passwd", "tandem-1", "tandem-" + "g" * 32])
def test_a_name_that_is_none_is_not_opened(name: str) -> None:
    with pytest.raises(OSError, match="is not the name of a segment"):
        Segment.attach(name, 4096, 1)


def test_a_segment_of_another_size_is_not_mapped() -> None:
    name = new_name()
    made = Segment.create(name, 4096)
    try:
        assert (FOLDER / name).stat().st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="is not a segment of 8192 bytes"):
            Segment.attach(name, 8192, 1)
    finally:
        made.close()
        unlink(name)
