"""Both libraries are built ahead of their first use; a machine that cannot do so is set up all the same."""

from pathlib import Path

import pytest

from shard_worker.collectives import shared_memory
from shard_worker.native import build
from shard_worker.native.compiler import Unit, build_library


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A store of the test's own, and kernels that are quickly compiled."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "store"))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "kernels.cpp").write_text("int kernels() { return 0; }\n")
    monkeypatch.setattr(build, "units", lambda: [Unit(tmp_path / "kernels" / "kernels.cpp")])
    return tmp_path / "store" / "native"


def test_both_are_built_and_found_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    build.main()
    said = capsys.readouterr()
    assert said == (f"shared-memory collectives: {shared_memory.build()}\nnative kernels: {build.path()}\n", "")
    monkeypatch.setenv("CXX", "no-such-compiler")
    build.main()
    assert capsys.readouterr() == said


@pytest.mark.parametrize("compiler", [None, "/nonexistent/compiler"])
def test_no_compiler_is_no_failure_of_the_set_up(
    compiler: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if compiler is None:
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        monkeypatch.setenv("CXX", compiler)
    build.main()
    out, err = capsys.readouterr()
    collectives, kernels = err.splitlines()
    assert out == ""
    assert collectives.startswith(
        "shared-memory collectives were not built, ranks will add up by torch.distributed: no C++ compiler"
    )
    assert kernels.startswith("native kernels were not built, PyTorch's own will be used: no C++ compiler")


def test_the_collectives_compile_without_a_warning(store: Path) -> None:
    library = build_library("strict", [Unit(shared_memory.SOURCE, ("-Wall", "-Wextra", "-Werror"))])
    assert list(store.iterdir()) == [library]
