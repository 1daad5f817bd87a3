"""Merging StepResults: shapes are checked, log-sum-exps combine, whole rows join."""

import numpy as np
import pytest

from common.arrays import F32, I32, to_wire
from common.errors import Refused
from gateway.sampling.candidates import combine_lse, join_slices, merge_sampled, merge_scored
from gateway.sampling.lists import VocabularySlice
from tandem.shard.v1.shard_service_pb2 import Resolved, StepResult

SLICES = [VocabularySlice(0, 4), VocabularySlice(4, 4)]


def result(first_id: int, raw_lse: float = 1.0) -> StepResult:
    """One position, r = 2, m = 1, n = 1."""
    return StepResult(
        noised_ids=to_wire([[first_id, first_id + 1]], I32),
        noised_scores=to_wire([[9, 8]], F32),
        noised_processed=to_wire([[7, 6]], F32),
        noised_raw=to_wire([[5, 4]], F32),
        top_ids=to_wire([[first_id]], I32),
        top_processed=to_wire([[7]], F32),
        raw_ids=to_wire([[first_id]], I32),
        raw_logits=to_wire([[5]], F32),
        processed_lse=to_wire([7.5], F32),
        raw_lse=to_wire([raw_lse], F32),
    )


def test_columns_travel_together() -> None:
    merged = merge_sampled([result(0), result(4)], SLICES, 1, 2, 1, 1)
    assert merged.noised_ids.tolist() == [[0, 4, 1, 5]]
    assert merged.noised_processed.tolist() == [[7, 7, 6, 6]]
    assert merged.noised_raw.tolist() == [[5, 5, 4, 4]]
    assert merged.noised_exact.tolist() == [3] and merged.top_exact.tolist() == [1]
    assert merged.processed_lse[0] == pytest.approx(7.5 + np.log(2))
    assert merged.is_finite.tolist() == [True] and merged.vocabulary_size == 8


@pytest.mark.parametrize("field", [field.name for field in StepResult.DESCRIPTOR.fields][3:12])
def test_a_wrong_length_is_refused(field: str) -> None:
    for data in (b"", b"12345678", b"123"):
        bad = result(4)
        if data == getattr(bad, field) or len(data) == len(getattr(bad, field)):
            continue
        setattr(bad, field, data)
        with pytest.raises(Refused, match=field):
            merge_sampled([result(0), bad], SLICES, 1, 2, 1, 1)


@pytest.mark.parametrize("field", ["noised_ids", "top_ids", "raw_ids"])
def test_an_id_of_another_slice_is_refused(field: str) -> None:
    bad = result(4)
    setattr(bad, field, to_wire(np.full(len(getattr(bad, field)) // 4, 3), I32))
    with pytest.raises(Refused, match=field):
        merge_sampled([result(0), bad], SLICES, 1, 2, 1, 1)


def test_lse_combines_exactly_and_keeps_what_is_not_finite() -> None:
    lses = [np.array(row, np.float32) for row in ([1, -np.inf, np.nan, np.inf], [2, 3, 0, 1])]
    combined = combine_lse(lses)
    assert combined[0] == pytest.approx(np.log(np.exp(1) + np.exp(2))) and combined[1] == 3
    assert np.isnan(combined[2]) and np.isinf(combined[3])
    assert combine_lse([np.array([800, 1], np.float32)]).tolist() == [800, 1]


@pytest.mark.parametrize("lse", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_marked(lse: float) -> None:
    assert merge_sampled([result(0, lse)], SLICES[:1], 1, 2, 1, 1).is_finite.tolist() == [False]


def test_steps_without_positions() -> None:
    assert merge_sampled([StepResult(), StepResult()], SLICES, 0, 8, 64, 5).noised_ids.shape[0] == 0
    assert len(merge_scored([StepResult(), StepResult()], SLICES, 0, 1).logits) == 0


def test_scored_positions_merge() -> None:
    results = [
        StepResult(
            scored_logits=to_wire([2, -np.inf], F32),
            scored_lse=to_wire([3, 1], F32),
            scored_raw_ids=to_wire([[1], [0]], I32),
            scored_raw_logits=to_wire([[2.5], [0.5]], F32),
        ),
        StepResult(
            scored_logits=to_wire([-np.inf, 0.25], F32),
            scored_lse=to_wire([2, 2], F32),
            scored_raw_ids=to_wire([[4], [7]], I32),
            scored_raw_logits=to_wire([[1.5], [1.5]], F32),
        ),
    ]
    merged = merge_scored(results, SLICES, 2, 1)
    assert merged.logits.tolist() == [2, 0.25] and merged.raw_ids.tolist() == [[1, 4], [7, 0]]
    np.testing.assert_allclose(merged.lse, np.logaddexp([3, 1], [2, 2]))
    results[1].scored_raw_ids = to_wire([[4], [8]], I32)
    with pytest.raises(Refused, match="scored_raw_ids"):
        merge_scored(results, SLICES, 2, 1)


def test_slices_join_in_rank_order() -> None:
    answers = [
        Resolved(
            first_id=owner.first_id,
            processed=to_wire(np.arange(4) + owner.first_id, F32),
            scores=to_wire(np.arange(4) + owner.first_id + 100, F32),
            raw=to_wire(np.arange(4) - owner.first_id, F32),
        )
        for owner in SLICES
    ]
    row = join_slices(answers, SLICES)
    assert row.processed.tolist() == list(range(8)) and row.scores[7] == 107 and row.raw[4] == -4
    with pytest.raises(Refused, match="first_id"):
        join_slices(answers[::-1], SLICES)
    answers[1].scores = answers[1].scores[:-4]
    with pytest.raises(Refused, match="scores"):
        join_slices(answers, SLICES)
