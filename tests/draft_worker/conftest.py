"""Tiny models to draft with, one and another, and a target to draft for."""

from collections.abc import Iterator

import pytest
import torch

from tests.support.drafting import Target
from tests.support.local_ranks import LocalRanks
from tests.support.tiny_model import TinyModel, make_tiny_model


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The model that is draft and target in most tests."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def target(tiny_model: TinyModel) -> Iterator[Target]:
    """The tiny model as a target."""
    with LocalRanks(tiny_model.folder) as ranks:
        yield Target(ranks)
