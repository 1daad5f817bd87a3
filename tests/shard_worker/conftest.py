"""What most tests of a rank need: a tiny model, and one live rank that serves it."""

from collections.abc import Iterator

import pytest
import torch

from tests.support.ranks import RankProcess, rank_group
from tests.support.tiny_model import TinyModel, make_tiny_model

RANK_MAX_STEP_TOKENS = 64


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Tiny tensors gain nothing from threads, and lose much where cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The default tiny model: 6 query heads, 3 KV heads, untied."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_rank(tiny_model: TinyModel) -> Iterator[RankProcess]:
    """A live rank, alone in its group. Tests attach to it one after the other."""
    with rank_group(tiny_model.folder, tp=1, max_step_tokens=RANK_MAX_STEP_TOKENS) as (rank,):
        yield rank
        assert rank.running, f"a test ended the rank:\n{rank.log}"
