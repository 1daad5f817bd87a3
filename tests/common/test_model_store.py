"""Where models live, and what is said when one is not there."""

from pathlib import Path

import pytest

from common.errors import CheckpointError
from common.manifest import MANIFEST_FILE
from common.model_store import EMBEDDED_MODEL, model_folder, resolve, store_folder, stored_names


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(folder: Path, file: str = MANIFEST_FILE) -> Path:
    folder.mkdir(parents=True)
    (folder / file).write_text("{}")
    return folder


def test_the_store_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TANDEM_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert store_folder() == tmp_path / ".cache" / "tandem"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert store_folder() == tmp_path / "cache" / "tandem"
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    assert store_folder() == tmp_path / "home"


def test_a_folder_that_is_a_checkpoint_is_itself(home: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "somewhere")
    assert resolve(folder) == resolve(str(folder)) == folder


@pytest.mark.parametrize("name", [EMBEDDED_MODEL, "mine", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_name_is_found_in_the_store(home: Path, name: str) -> None:
    folder = put(model_folder(name))
    assert folder.parent == home / "models"
    assert resolve(name) == folder


@pytest.mark.parametrize(
    ("name", "command"),
    [
        (EMBEDDED_MODEL, "`tandem download`"),
        ("owner/name", "`tandem download owner/name`"),
        (
            "unknown",
            "fetches smollm2-135m-instruct and what `tandem models` lists, `tandem convert` reads other formats",
        ),
        ("/absent/folder", "`tandem convert` reads"),
        ("../escape", "`tandem convert` reads"),
        ("", "`tandem convert` reads"),
    ],
)
def test_what_is_not_there_says_which_command_makes_it(home: Path, name: str, command: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve(name)
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_foreign_model_says_how_to_convert_it(home: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "hub", "config.json")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for path in (folder, tmp_path / "model.gguf"):
        with pytest.raises(CheckpointError, match=f"tandem convert {path} --output FOLDER"):
            resolve(path)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b/c", "a/../b", "/etc", "a/", "-x", "a b", "a\n"])
def test_names_cannot_leave_the_store(home: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="is not a model's name"):
        model_folder(name)


def test_a_typo_is_answered_with_what_is_stored(home: Path) -> None:
    put(model_folder("mine-int4"))
    put(home / "models" / ".theirs.partial")
    assert stored_names() == ["mine-int4"], "what is still being made is not there yet"
    for typo, meant in (("Mine-int4", "mine-int4"), ("smollm2-135m-instrct", EMBEDDED_MODEL)):
        with pytest.raises(CheckpointError, match=f"Did you mean {meant}\\?"):
            resolve(typo)
    with pytest.raises(CheckpointError) as caught:
        resolve("theirs")
    assert "Did you mean" not in str(caught.value)
