"""Building: once, whatever happens beside it, and found again by what it was made of."""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import SettingsError
from shard_worker.native import build
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


def test_what_does_not_compile_leaves_nothing(unit: Unit, store: Path) -> None:
    unit.source.write_text("int answer( {\n")
    with pytest.raises(SettingsError, match=r"failed[^$]*error:"):
        build_library("answer", [unit])
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("compiler", [None, "/nonexistent/compiler"])
def test_no_compiler_is_no_failure_of_the_set_up(
    compiler: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if compiler is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr(sys, "argv", ["build"])
    build.main()
    assert "native kernels were not built, PyTorch's own will be used" in capsys.readouterr().err
