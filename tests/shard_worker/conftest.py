"""What most tests of a rank need: a tiny model, and one live rank that serves it."""

from collections.abc import Iterator

import pytest

from tests.support.ranks import RankProcess, rank_group
from tests.support.tiny_fixtures import one_thread, tiny_model
from tests.support.tiny_model import TinyModel

__all__ = ["one_thread", "tiny_model", "tiny_rank"]

RANK_MAX_STEP_TOKENS = 64


@pytest.fixture(scope="session")
def tiny_rank(tiny_model: TinyModel) -> Iterator[RankProcess]:
    """A live rank, alone in its group. Tests attach to it one after the other."""
    with rank_group(tiny_model.folder, tp=1, max_step_tokens=RANK_MAX_STEP_TOKENS) as (rank,):
        yield rank
        assert rank.running, f"a test ended the rank:\n{rank.log}"
