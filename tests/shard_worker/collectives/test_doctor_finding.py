"""What `tandem doctor` says about shared memory."""

from pathlib import Path

import pytest

from shard_worker.selftest import check_shared_memory
from tests.support.segments import assert_none_left, segments


def test_where_it_works() -> None:
    before = segments()
    finding = check_shared_memory()
    assert (finding.level, finding.subject) == ("ok", "/dev/shm")
    assert_none_left(before)


def test_where_there_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = check_shared_memory()
    assert finding.level == "warn" and "no C++ compiler (no-such-compiler)" in finding.text
