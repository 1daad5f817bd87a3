"""Native code is used where it can be; where it cannot, that is said, or refused where it was asked for."""

import logging
from pathlib import Path

import pytest

from common.errors import SettingsError
from shard_worker.native.library import Runner
from tests.support.local_ranks import LocalRanks
from tests.support.tiny_families import make_family
from tests.support.tiny_model import TinyModel


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty store."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))


def test_the_kernels_are_named(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), LocalRanks(tiny_model.folder):
        assert f"native kernels: {Runner(1).kernels}, 1 threads" in caplog.text


@pytest.mark.usefixtures("not_built")
def test_without_a_library_pytorch_computes(tiny_model: TinyModel, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), LocalRanks(tiny_model.folder) as ranks:
        assert "native kernels are not in use: the native kernels are not built" in caplog.text
        assert ranks.driver().generate([[1, 2, 3]], 4)[0].ids


@pytest.mark.usefixtures("not_built")
def test_asked_for_and_not_there(tiny_model: TinyModel) -> None:
    with pytest.raises(SettingsError, match=r"native kernels cannot be used: .* are not built: `python -m"):
        LocalRanks(tiny_model.folder, native="on")


def test_reference_attention_is_pytorch_s(tiny_model: TinyModel) -> None:
    with pytest.raises(SettingsError, match="reference attention is PyTorch's"):
        LocalRanks(tiny_model.folder, native="on", attention="reference")


def test_what_departs_from_llama_is_pytorch_s(tmp_path: Path) -> None:
    folder = make_family(tmp_path, "gemma2").folder
    with pytest.raises(SettingsError, match="what this model has: output norms, activation gelu_tanh"):
        LocalRanks(folder, native="on")
