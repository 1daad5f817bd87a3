"""Winners without arrays: the tokens that `choose` draws of merged records, whatever the ranks report."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.arrays import F32, I32, to_wire
from common.errors import Refused, RequestFailed
from gateway.sampling.candidates import merge_sampled
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.params import SamplingParams
from gateway.sampling.sampler import Choice, choose
from gateway.sampling.winners import winners
from tandem.shard.v1.shard_service_pb2 import StepResult

SLICES = [VocabularySlice(0, 4), VocabularySlice(4, 3), VocabularySlice(7, 5)]
# A log-sum-exp, now and then one that is not finite.
LSES = st.sampled_from([0.0, 1.5, -2.0, np.nan, np.inf, -np.inf])
POSITIONS = st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 1), LSES, LSES), max_size=5)


def result(owner: VocabularySlice, positions: list[tuple[int, int, float, float]]) -> StepResult:
    ids, scores, processed_lse, raw_lse = zip(*positions, strict=True) if positions else ((), (), (), ())
    column = np.reshape(scores, (-1, 1))
    return StepResult(
        noised_ids=to_wire(np.reshape(ids, (-1, 1)) + owner.first_id, I32),
        noised_scores=to_wire(column, F32),
        noised_processed=to_wire(column, F32),
        noised_raw=to_wire(column, F32),
        processed_lse=to_wire(processed_lse, F32),
        raw_lse=to_wire(raw_lse, F32),
    )


def drawn(results: list[StepResult], slices: list[VocabularySlice], count: int) -> list[int | None]:
    """What the general way draws."""
    candidates, token_ids = merge_sampled(results, slices, count, 1, 0, 0), list[int | None]()
    for position in range(count):
        try:
            choice = choose(candidates, position, SamplingParams())
        except RequestFailed:
            token_ids.append(None)
        else:
            assert isinstance(choice, Choice)  # nothing is truncated
            token_ids.append(choice.token_id)
    return token_ids


@given(st.lists(POSITIONS, min_size=1, max_size=3))
def test_the_same_tokens_as_of_merged_records(ranks: list[list[tuple[int, int, float, float]]]) -> None:
    count, slices = min(map(len, ranks)), SLICES[: len(ranks)]
    results = [result(owner, positions[:count]) for owner, positions in zip(slices, ranks, strict=True)]
    assert winners(results, slices, count) == drawn(results, slices, count)


@pytest.mark.parametrize("field", ["noised_ids", "noised_scores", "processed_lse", "raw_lse"])
def test_a_wrong_length_is_refused(field: str) -> None:
    for data in (b"", b"123", b"12345678"):
        bad = result(SLICES[1], [(0, 0, 1.0, 1.0)])
        setattr(bad, field, data)
        with pytest.raises(Refused, match=field):
            winners([result(SLICES[0], [(0, 0, 1.0, 1.0)]), bad], SLICES[:2], 1)


@pytest.mark.parametrize("token_id", [-1, 3, 7])
def test_an_id_of_another_slice_is_refused(token_id: int) -> None:
    bad = result(SLICES[1], [(0, 0, 1.0, 1.0)] * 2)
    bad.noised_ids = to_wire([4, token_id], I32)
    with pytest.raises(Refused, match="noised_ids"):
        winners([bad], SLICES[1:2], 2)
