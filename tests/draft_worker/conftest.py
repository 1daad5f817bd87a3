"""Tiny models to draft with, one and another, and a target to draft for."""

from collections.abc import Iterator

import pytest

from tests.support.drafting import Target
from tests.support.local_ranks import LocalRanks
from tests.support.tiny_fixtures import one_thread, tiny_model
from tests.support.tiny_model import TinyModel

__all__ = ["one_thread", "target", "tiny_model"]


@pytest.fixture(scope="session")
def target(tiny_model: TinyModel) -> Iterator[Target]:
    """The tiny model as a target."""
    with LocalRanks(tiny_model.folder) as ranks:
        yield Target(ranks)
