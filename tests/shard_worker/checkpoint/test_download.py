"""Fetching from the hub, with the hub played by a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from common.errors import CheckpointError
from common.manifest import read_manifest
from common.model_store import resolve
from shard_worker.checkpoint.download import fetch
from tests.support.fake_hub import FakeHub, commit_of, hub_played_by
from tests.support.foreign_checkpoints import save_torch
from tests.support.reference import reference_name

CONFIG = """{"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 40,
"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "eos_token_id": 2}"""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_model: Callable[..., Any]
) -> list[tuple[str, list[str]]]:
    snapshot = tmp_path / "cache" / "0123abc"
    snapshot.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = make_model()[1]
    save_file({reference_name(name): t for name, t in tensors.items()}, snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(CONFIG)
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(snapshot / "tokenizer.json"))
    calls: list[tuple[str, list[str]]] = []

    def snapshot_download(repo: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        calls.append((repo, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_repository_is_fetched_once(store: Path, calls: list[tuple[str, list[str]]]) -> None:
    stages = set()
    folder = fetch("owner/name", lambda stage, *_: stages.add(stage))
    assert folder == store / "models" / "owner--name" == resolve("owner/name")
    assert stages == {"converting", "verifying"}
    manifest, _ = read_manifest(folder)
    assert (manifest.name, manifest.source, manifest.dtype) == ("owner/name", "owner/name@0123abc", "bfloat16")
    assert fetch("owner/name", lambda *_: None) == folder
    assert len(calls) == 1
    fetch("owner/name", lambda *_: None, replace=True)
    assert len(calls) == 2
    assert [p.name for p in folder.parent.iterdir()] == ["owner--name"]


def test_a_listed_name_is_fetched_from_its_repository(store: Path, calls: list[tuple[str, list[str]]]) -> None:
    folder = fetch("qwen3-8b", lambda *_: None)
    assert folder == store / "models" / "qwen3-8b" == resolve("qwen3-8b")
    assert [repo for repo, _ in calls] == ["Qwen/Qwen3-8B"]
    assert read_manifest(folder)[0].source == "Qwen/Qwen3-8B@0123abc"


def test_only_safetensors_weights_are_asked_for(calls: list[tuple[str, list[str]]]) -> None:
    fetch("owner/name", lambda *_: None)
    [(_, patterns)] = calls
    assert not any(pattern.endswith((".bin", ".pt", ".pth", ".py", "*")) for pattern in patterns)


def test_pickles_are_fetched_where_there_is_nothing_else(
    store: Path, calls: list[tuple[str, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They become the same weights, by way of the throw-away process, and are of the revision that was looked at."""
    safetensors = fetch("owner/name", lambda *_: None)
    snapshot = tmp_path / "cache" / "0123abc"
    save_torch(load_file(snapshot / "model.safetensors"), snapshot / "pytorch_model.bin")
    (snapshot / "model.safetensors").unlink()
    monkeypatch.undo()
    monkeypatch.setenv("TANDEM_HOME", str(store))
    files = {path.name: path.read_bytes() for path in snapshot.iterdir()}
    pushed = files | {"pytorch_model.bin": b"of another day"}
    hub = FakeHub({"openlm-research/open_llama_3b": [files, pushed]})
    with hub_played_by(hub, tmp_path / "hub", monkeypatch):
        pickled = fetch("open-llama-3b", lambda *_: None)
    assert {path.split("/")[4] for path in hub.asked if path.endswith(".bin")} == {commit_of(files)}
    name = "model.safetensors"
    assert (pickled / name).read_bytes() == (safetensors / name).read_bytes()
    assert read_manifest(pickled)[0].source == f"openlm-research/open_llama_3b@{commit_of(files)}"


def test_a_chat_template_that_is_given_counts(calls: list[tuple[str, list[str]]]) -> None:
    assert not (fetch("owner/name", lambda *_: None) / "chat_template.jinja").exists()
    folder = fetch("owner/name", lambda *_: None, replace=True, chat_template="{{ messages }}")
    assert (folder / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_failed_download_is_one_line_and_leaves_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise RuntimeError("404 Client Error.\n\nRepository Not Found " + "x" * 1000)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        CheckpointError, match=r"could not download owner/name .*404 Client Error\. Repository"
    ) as caught:
        fetch("owner/name", lambda *_: None)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert list((store / "models").iterdir()) == []
