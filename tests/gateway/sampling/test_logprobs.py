"""Log-probabilities are those of the raw softmax over the whole vocabulary."""

import numpy as np
import pytest

from common.arrays import F32, I32, to_wire
from common.errors import RequestFailed
from gateway.sampling.candidates import merge_sampled, merge_scored
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.logprobs import scored_logprobs, token_logprobs
from gateway.sampling.sampler import Choice
from tandem.shard.v1.shard_service_pb2 import StepResult

RAW = np.array([1.0, 3.0, 3.0, -2.0, 0.5, 3.0], np.float32)
LOGPROBS = RAW - np.log(np.exp(RAW.astype(np.float64)).sum())
SLICES = [VocabularySlice(0, 2), VocabularySlice(2, 4)]


def results(num_raw: int, scored_ids: list[int]) -> list[StepResult]:
    answers = []
    for owner in SLICES:
        own = RAW[owner.first_id : owner.first_id + owner.size]
        best = np.argsort(-own, kind="stable")[:num_raw]
        count = len(scored_ids)
        inside = [owner.first_id <= i < owner.first_id + owner.size for i in scored_ids]
        lse = np.log(np.exp(own.astype(np.float64)).sum())
        answers.append(
            StepResult(
                noised_ids=to_wire([owner.first_id], I32),
                noised_scores=to_wire([0], F32),
                noised_processed=to_wire([0], F32),
                noised_raw=to_wire([0], F32),
                raw_ids=to_wire(best + owner.first_id, I32),
                raw_logits=to_wire(own[best], F32),
                processed_lse=to_wire([0], F32),
                raw_lse=to_wire([lse], F32),
                scored_logits=to_wire(np.where(inside, RAW[scored_ids], -np.inf), F32),
                scored_lse=to_wire([lse] * count, F32),
                scored_raw_ids=to_wire(np.tile(best + owner.first_id, (count, 1)), I32),
                scored_raw_logits=to_wire(np.tile(own[best], (count, 1)), F32),
            )
        )
    return answers


def test_generated_token() -> None:
    merged = merge_sampled(results(3, []), SLICES, 1, 1, 0, 3)
    got = token_logprobs(merged, 0, Choice(4, float(RAW[4])), 3)
    assert got.logprob == pytest.approx(LOGPROBS[4], abs=1e-6)
    assert got.top_ids == (1, 2, 5)
    assert got.top_logprobs == pytest.approx([LOGPROBS[1]] * 3, abs=1e-6)
    assert token_logprobs(merged, 0, Choice(4, float(RAW[4])), 0).top_ids == ()


def test_alternatives_are_cut_to_the_vocabulary() -> None:
    merged = merge_sampled(results(20, []), SLICES, 1, 1, 0, 20)
    assert token_logprobs(merged, 0, Choice(0, 1.0), 20).top_ids == (1, 2, 5, 0, 4, 3)


def test_scored_tokens() -> None:
    ids = [0, 1, 2, 3, 5]
    merged = merge_scored(results(2, ids), SLICES, 5, 2)
    got = scored_logprobs(merged, 1, np.array(ids[1:], np.int32), 2)
    np.testing.assert_allclose(got.logprobs, LOGPROBS[ids[1:]], atol=1e-6)
    assert got.is_greedy.tolist() == [True, False, False, False]  # 1, 2 and 5 tie: the lowest id is the choice
    assert got.top_ids.tolist() == [[1, 2]] * 4
    np.testing.assert_allclose(got.top_logprobs, np.full((4, 2), LOGPROBS[1]), atol=1e-6)


def test_scored_nan_fails_its_own_request_only() -> None:
    answers = results(1, [0, 1])
    answers[1].scored_lse = to_wire([np.nan, 1], F32)
    merged = merge_scored(answers, SLICES, 2, 1)
    with pytest.raises(RequestFailed):
        scored_logprobs(merged, 0, np.array([0], np.int32), 0)
    assert np.isfinite(scored_logprobs(merged, 1, np.array([1], np.int32), 0).logprobs).all()
