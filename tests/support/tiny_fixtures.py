"""Fixtures for tests of what runs a tiny model in this process."""

import pytest
import torch

from tests.support.tiny_model import TinyModel, make_tiny_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and lose much where cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The default tiny model: 6 query heads, 3 KV heads, untied."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))
