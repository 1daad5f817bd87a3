"""Tiny random models of every awkward shape: all ranks together are transformers, to 1e-4."""

import random
from copy import deepcopy

import numpy as np
import pytest

from common.errors import CheckpointError
from tests.support.greedy import assert_matches
from tests.support.local_ranks import LocalRanks
from tests.support.ranks import rank_group
from tests.support.reference import reference_logits
from tests.support.step_client import StepGroup
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model

LETTERS = random.Random(7).choices(range(259), k=200)
PROMPTS = [LETTERS[at : at + size] for at, size in ((0, 1), (1, 2), (3, 15), (20, 16), (40, 17), (60, 40), (100, 100))]
NUM_TOKENS = 12

SHAPES = {
    "6 heads, 3 KV": TinyShape(),
    "9 heads, 3 KV": TinyShape(query_heads=9, kv_heads=3, tied=True),
    "8 heads, 2 KV": TinyShape(query_heads=8, kv_heads=2, llama3_rope=True, vocabulary_size=271),
    "4 heads, 1 KV": TinyShape(query_heads=4, kv_heads=1, head_dim=12, intermediate_size=51),
    "5 heads, 5 KV": TinyShape(query_heads=5, kv_heads=5, tied=True, llama3_rope=True),
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """One model of each shape."""
    return make_tiny_model(tmp_path_factory.mktemp("model"), SHAPES[request.param])


@pytest.mark.parametrize("tp", [1, 2, 3, 4])
def test_all_ranks_together_are_the_reference(model: TinyModel, tp: int) -> None:
    with LocalRanks(model.folder, tp) as ranks:
        answers = ranks.driver().generate(PROMPTS, NUM_TOKENS, chunk_tokens=13)
    assert len({tuple(answer.ids) for answer in answers}) > 1, "the model says the same to everything"
    for answer in answers:
        assert_matches(answer, reference_logits(model.reference, answer.known).numpy(), 1e-4)


@pytest.mark.parametrize("tp", [2, 4])
def test_processes_are_the_reference(tiny_model: TinyModel, tp: int) -> None:
    with rank_group(tiny_model.folder, tp) as ranks, StepGroup([rank.address for rank in ranks]) as group:
        assert [info.vocabulary_first for info in group.infos] == {2: [0, 132], 4: [0, 66, 132, 198]}[tp]
        assert sum(info.vocabulary_size for info in group.infos) == 263
        answers = group.driver().generate(PROMPTS, NUM_TOKENS, chunk_tokens=32)
    for answer in answers:
        assert_matches(answer, reference_logits(tiny_model.reference, answer.known).numpy(), 1e-4)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_bfloat16_is_as_close_as_transformers(tiny_model: TinyModel, tp: int) -> None:
    rounded = deepcopy(tiny_model.reference).bfloat16()
    ours, theirs = [], []
    with LocalRanks(tiny_model.folder, tp, dtype="bfloat16") as ranks:
        for answer in ranks.driver().generate(PROMPTS, 1):
            exact = reference_logits(tiny_model.reference, answer.prompt)[-1].numpy()
            assert answer.first_row is not None
            ours.append(np.abs(answer.first_row - exact).mean())
            theirs.append(np.abs(reference_logits(rounded, answer.prompt)[-1].numpy() - exact).mean())
    assert 0 < np.mean(ours) < 1.2 * np.mean(theirs)


@pytest.mark.parametrize(
    ("shape", "tp", "reason"),
    [
        (TinyShape(), 7, "7 ranks cannot share 6 query heads"),
        (TinyShape(query_heads=4, kv_heads=1, intermediate_size=3), 4, "4 ranks cannot share 3 feed-forward columns"),
    ],
)
def test_what_cannot_be_cut_is_refused(
    tmp_path_factory: pytest.TempPathFactory, shape: TinyShape, tp: int, reason: str
) -> None:
    model = make_tiny_model(tmp_path_factory.mktemp("model"), shape)
    with pytest.raises(CheckpointError, match=reason):
        LocalRanks(model.folder, tp)
