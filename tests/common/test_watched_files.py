"""What is read anew, when, and what stays in use where it cannot be."""

import logging
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.watched_files import WatchedFiles
from tests.support.certificates import replace


def watched(path: Path, look_every_s: float = 0.0) -> WatchedFiles[list[str]]:
    def read() -> list[str]:
        text = path.read_text()
        if text == "bad":
            raise SettingsError(f"{path}: bad")
        return [text]

    return WatchedFiles([path], read, look_every_s)


def test_new_content_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    files = watched(path)
    first = files.value
    assert first == ["1"] and files.value is first
    replace(path, b"2")
    second = files.value
    assert second == ["2"] and files.value is second
    path.write_text("333")  # in place
    assert files.value == ["333"]


def test_what_cannot_be_read_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    files = watched(path)
    with caplog.at_level(logging.ERROR):
        replace(path, b"bad")
        assert files.value == files.value == ["1"]
        path.unlink()
        assert files.value == files.value == ["1"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    replace(path, b"2")
    assert files.value == ["2"]


def test_the_first_reading_must_succeed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*file: no such file"):
        watched(tmp_path / "file")


def test_files_are_not_looked_at_for_every_call(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    files = watched(path, look_every_s=3600.0)
    replace(path, b"2")
    assert files.value == ["1"]
