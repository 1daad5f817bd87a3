"""Sources are compiled once; what cannot be compiled says so in one line."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import SettingsError
from shard_worker.collectives.__main__ import main as prebuild
from shard_worker.collectives.build import build

FLAGS = ("-std=c++17", "-O1")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "native"


def source(folder: Path, number: int) -> list[Path]:
    """Write a unit that returns what its header says."""
    unit, header = folder / "number.cpp", folder / "number.h"
    unit.write_text('#include "number.h"\nextern "C" int number() { return NUMBER; }\n')
    header.write_text(f"#define NUMBER {number}\n")
    return [unit, header]


def number_in(library: Path) -> int:
    value: int = ctypes.CDLL(str(library)).number()
    return value


def test_it_is_compiled_once(tmp_path: Path) -> None:
    library = build(source(tmp_path, 7), FLAGS)
    assert number_in(library) == 7
    before = library.stat()
    assert build(source(tmp_path, 7), FLAGS) == library
    assert library.stat() == before


def test_whatever_changes_makes_another(tmp_path: Path) -> None:
    library = build(source(tmp_path, 7), FLAGS)
    other = build(source(tmp_path, 8), FLAGS)
    assert other != library and number_in(other) == 8
    assert build(source(tmp_path, 8), (*FLAGS, "-DX")) not in (library, other)


def test_many_at_once(tmp_path: Path, store: Path) -> None:
    sources = source(tmp_path, 7)
    with ThreadPoolExecutor(4) as threads:
        libraries = set(threads.map(lambda _: build(sources, FLAGS), range(4)))
    (library,) = libraries
    assert number_in(library) == 7
    assert list(store.iterdir()) == [library]


def test_the_compiler_s_own_words(tmp_path: Path, store: Path) -> None:
    sources = source(tmp_path, 7)
    sources[0].write_text("int number() { return nothing; }\n")
    with pytest.raises(SettingsError, match=r"failed: .*number\.cpp:1.*error.*nothing"):
        build(sources, FLAGS)
    assert list(store.iterdir()) == []


def test_a_compiler_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match=r"no C\+\+ compiler \(no-such-compiler\) is installed"):
        build(source(tmp_path, 7), FLAGS)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="cannot write"):
        build(source(tmp_path, 7), FLAGS)


def test_the_library_can_be_built_ahead(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    prebuild()
    (library,) = store.iterdir()
    assert capsys.readouterr() == (f"shared-memory collectives: {library}\n", "")


def test_without_a_compiler_that_is_no_failure(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    prebuild()
    said = "ranks will add up by torch.distributed: no C++ compiler (no-such-compiler) is installed\n"
    assert capsys.readouterr() == ("", said)
