"""Which token a draft takes from a step's records, with and without truncation."""

from math import exp, log
from typing import Any

import numpy as np
import pytest

from common.arrays import F32, I32, to_wire
from draft_worker.choice import NUM_NOISED_TRUNCATED, NUM_TOP, Records, truncates
from tandem.draft.v1.draft_service_pb2 import Sampling
from tandem.shard.v1.shard_service_pb2 import StepResult

PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.04, 0.01])
LOGITS = np.log(PROBABILITIES).astype(np.float32)


def records(noise: list[float], num_noised: int = 6, num_top: int = NUM_TOP) -> Records:
    """The records of one position with these probabilities, when the tokens get this noise."""
    scores = LOGITS + np.array(noise, np.float32)
    order = np.argsort(-scores)[:num_noised]
    result = StepResult(
        noised_ids=to_wire(order, I32),
        noised_scores=to_wire(scores[order], F32),
        noised_processed=to_wire(LOGITS[order], F32),
        top_processed=to_wire(LOGITS[:num_top], F32),
        processed_lse=to_wire([0.0], F32),
    )
    return Records.of(result, 1)


def params(**fields: Any) -> Sampling:
    return Sampling(**({"temperature": 1.0, "top_p": 1.0} | fields))


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, (5, 4)),
        ({"top_k": 6}, (5, 4)),
        ({"top_k": 5}, (4, 3)),
        ({"top_k": 2}, (1, 0)),
        ({"top_p": 0.96}, (4, 3)),  # the first five hold 0.99, the first four 0.95
        ({"top_p": 0.94}, (3, 2)),
        ({"top_p": 0.5}, (1, 0)),
        ({"top_k": 3, "top_p": 0.8}, (1, 0)),  # of the three kept, the first two hold 0.82
        ({"top_k": 3, "top_p": 0.83}, (2, 1)),
        ({"min_p": 0.2}, (3, 2)),
        ({"min_p": 0.3, "top_k": 5}, (2, 1)),
        ({"top_k": 1}, (0, -1)),
    ],
)
def test_the_best_two_that_are_kept(fields: dict[str, float], chosen: tuple[int, int]) -> None:
    token = records([0.0, 1.0, 2.0, 3.0, 4.5, 6.5]).token(0, params(**fields))  # the less likely, the better by score
    assert (token.id, token.runner_up_id) == chosen
    assert token.probability == pytest.approx(PROBABILITIES[token.id], rel=1e-5)
    assert token.margin >= 0


def test_a_list_too_short_to_tell_keeps_what_it_has() -> None:
    token = records([0.0, 1.0, 2.0, 3.0, 4.5, 6.5], num_noised=2).token(0, params(top_k=1))
    assert (token.id, token.runner_up_id) == (5, -1)


def test_margin_is_the_gap_of_the_scores() -> None:
    token = records([0.0] * 6).token(0, Sampling())
    assert (token.id, token.runner_up_id) == (0, 1)
    assert token.margin == pytest.approx(log(0.4 / 0.3), rel=1e-5)


def test_numbers_that_are_none_stay_inside() -> None:
    result = StepResult(
        noised_ids=to_wire([3, 1], I32),
        noised_scores=to_wire([np.nan, np.nan], F32),
        noised_processed=to_wire([np.nan, np.nan], F32),
        processed_lse=to_wire([np.nan], F32),
    )
    token = Records.of(result, 1).token(0, params())
    assert (token.id, token.margin) == (3, 0.0) and 0 <= token.probability <= exp(0)


def test_what_truncates() -> None:
    assert [truncates(params(**fields)) for fields in ({}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1})] == [
        False,
        True,
        True,
        True,
    ]
    assert not truncates(Sampling(top_k=5, top_p=0.5))  # greedy
    assert NUM_NOISED_TRUNCATED > 2
