"""Building: once, whatever happens beside it, and found again by what it was made of."""

import ctypes
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import SettingsError
from shard_worker.native.compiler import Unit, build_library, library_path


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store of the test's own."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "store"))
    return tmp_path / "store" / "native"


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    """A library of one function, which gives a macro's value."""
    source = tmp_path / "source" / "answer.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" __attribute__((visibility("default"))) int answer() { return ANSWER; }\n')
    return Unit(source, ("-DANSWER=42",))


def test_processes_may_build_at_once(unit: Unit, store: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: build_library("answer", [unit]), range(4)))
    assert paths == {library_path("answer", [unit])}
    assert list(store.iterdir()) == list(paths), "something was left behind"
    assert ctypes.CDLL(str(paths.pop())).answer() == 42


def test_built_once(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build_library("answer", [unit])
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    assert build_library("answer", [unit]) == path


def test_another_source_header_or_flag_is_another_library(unit: Unit) -> None:
    paths = {library_path("answer", [unit]), library_path("answer", [Unit(unit.source, ("-DANSWER=43",))])}
    (unit.source.parent / "answer.h").write_text("#pragma once\n")
    paths.add(library_path("answer", [unit]))
    unit.source.write_text(unit.source.read_text() + "\n")
    paths.add(library_path("answer", [unit]))
    assert len(paths) == 4


def test_the_compiler_s_own_words_on_one_line(unit: Unit, store: Path) -> None:
    unit.source.write_text("// nothing wrong here\nint answer() { return nothing; }\n")
    with pytest.raises(SettingsError) as raised:
        build_library("answer", [unit])
    assert re.fullmatch(r"the C\+\+ compiler failed: .*answer\.cpp:2.*error.*nothing.*", str(raised.value))
    assert list(store.iterdir()) == [], "something was left behind"


def test_a_compiler_may_have_arguments(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "env c++")
    assert ctypes.CDLL(str(build_library("answer", [unit]))).answer() == 42


def test_a_compiler_that_is_none(unit: Unit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O0")
    with pytest.raises(SettingsError, match=r"no C\+\+ compiler \(no-such-compiler -O0\): install g"):
        build_library("answer", [unit])


def test_a_store_that_cannot_be_written(unit: Unit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match=r"cannot write .*: Not a directory"):
        build_library("answer", [unit])
