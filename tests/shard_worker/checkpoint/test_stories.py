"""The stories models of llama2.c, from the hub's own client to a checkpoint, with the hub on 127.0.0.1."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from common.errors import CheckpointError
from common.manifest import read_manifest
from common.model_store import resolve
from shard_worker.checkpoint import stories
from shard_worker.checkpoint.download import fetch
from shard_worker.checkpoint.stories import LLAMA2_TOKENIZER, PinnedFile
from tests.support.fake_hub import FakeHub, commit_of, hub_played_by
from tests.support.foreign_checkpoints import tiny_architecture, tiny_weights, write_llama2c_training

MODELS, TOKENIZERS = "karpathy/tinyllamas", LLAMA2_TOKENIZER.repository


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """The hub with a tiny model under each of the three names, and a tiny tokenizer in the place of Llama 2's."""
    architecture = tiny_architecture(tied_embeddings=True)
    path = write_llama2c_training(tmp_path / "trained", architecture, tiny_weights(architecture))
    models = {f"stories{size}.pt": path.read_bytes() for size in ("15M", "42M", "110M")}
    tokenizer = path.with_name("tokenizer.model").read_bytes()
    digest = hashlib.sha256(tokenizer).hexdigest()
    pinned = PinnedFile(TOKENIZERS, "tokenizer.model", len(tokenizer), digest)
    monkeypatch.setattr(stories, "LLAMA2_TOKENIZER", pinned)
    fake = FakeHub({MODELS: [models], TOKENIZERS: [{"tokenizer.model": tokenizer, "config.json": b"{}"}]})
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "home"))
    with hub_played_by(fake, tmp_path / "cache", monkeypatch):
        yield fake


@pytest.mark.parametrize("size", ["15M", "42M", "110M"])
def test_a_stories_model_becomes_a_checkpoint(hub: FakeHub, size: str) -> None:
    stages = set()
    folder = fetch(f"stories{size}", lambda stage, *_: stages.add(stage))
    assert folder == resolve(f"stories{size.lower()}")
    assert stages == {f"reading stories{size}.pt", "converting", "verifying"}
    manifest, _ = read_manifest(folder)
    assert manifest.source == f"{MODELS}@{commit_of(hub.repositories[MODELS][0])}: stories{size}.pt"
    assert manifest.architecture == tiny_architecture(tied_embeddings=True)
    assert (manifest.dtype, manifest.end_of_text_ids) == ("bfloat16", (2, 1))
    [tokenizer] = (files["tokenizer.model"] for files in hub.repositories[TOKENIZERS])
    assert (folder / "tokenizer.model").read_bytes() == tokenizer
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}, "nothing of the way is left"
    names = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert names == {f"stories{size}.pt", "tokenizer.model"}, "neither the other models nor other files"


def refused(reason: str, home: Path) -> str:
    with pytest.raises(CheckpointError, match=reason) as caught:
        fetch("stories15m", lambda *_: None)
    assert list((home / "models").iterdir()) == [], "nothing is left"
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("changed", [lambda data: data[:-1] + b"?", lambda data: data + b"?"], ids=["bytes", "size"])
def test_another_tokenizer_is_refused_with_what_to_do(hub: FakeHub, tmp_path: Path, changed: object) -> None:
    assert callable(changed)
    [files] = hub.repositories[TOKENIZERS]
    files["tokenizer.model"] = changed(files["tokenizer.model"])
    told = refused("no longer Llama 2's", tmp_path / "home")
    assert "github.com/karpathy/llama2.c beside stories15M.pt, then `tandem convert stories15M.pt --output" in told
    assert not any("stories15M" in path for path in hub.asked), "before the model is fetched"


def test_what_is_not_there_is_named(hub: FakeHub, tmp_path: Path) -> None:
    there = hub.repositories.pop(TOKENIZERS)
    refused(f"could not download tokenizer.model of {TOKENIZERS} from the Hugging Face hub: 404", tmp_path / "home")
    hub.repositories[TOKENIZERS] = there
    del hub.repositories[MODELS][0]["stories15M.pt"]
    refused(f"could not download stories15M.pt of {MODELS} from the Hugging Face hub: 404", tmp_path / "home")


def test_without_a_network_it_is_said(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(f"could not download tokenizer.model of {TOKENIZERS} .*check your connection", tmp_path / "home")
    assert hub.asked == []


def test_a_file_that_is_no_model_is_refused_by_the_child(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories[MODELS][0]["stories15M.pt"] = b"PK\x03\x04 and no more"
    refused("cannot read .*stories15M.pt: not an archive as torch.save writes one", tmp_path / "home")
