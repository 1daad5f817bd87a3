"""What most tests of a rank need: a tiny model, and one live rank that serves it."""

from collections.abc import Iterator

import pytest

from tests.support.local_ranks import LocalRanks
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


@pytest.fixture(scope="module", params=[(1, "on"), (1, "off"), (2, "on"), (3, "off")], ids=str)
def ranks(request: pytest.FixtureRequest, tiny_model: TinyModel) -> Iterator[LocalRanks]:
    """Ranks inside this process: groups of 1 to 3, in native code and in PyTorch."""
    tp, native = request.param
    with LocalRanks(tiny_model.folder, tp=tp, native=native) as made:
        yield made
