"""What the records decide, by hand: each case small enough to check on paper."""

from math import log

import numpy as np
import pytest

from common.arrays import F32, I32, to_wire
from common.errors import RequestFailed
from gateway.sampling.candidates import Candidates, WholeRow, merge_sampled
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.params import SamplingParams
from gateway.sampling.sampler import Choice, Undecided, choose, choose_from_whole
from gateway.sampling.truncation import kept_tokens
from tandem.shard.v1.shard_service_pb2 import StepResult

PROBABILITIES = [0.05, 0.4, 0.25, 0.1, 0.15, 0.05]  # in order: 1, 2, 4, 3, 0, 5


def row(winners: list[int]) -> WholeRow:
    """Noise that puts `winners` first, in that order."""
    logits = np.log(np.array(PROBABILITIES, np.float32))
    scores = np.array([-float(winners.index(i)) if i in winners else -100.0 for i in range(6)], np.float32)
    return WholeRow(logits, scores, logits * 2)


def candidates(whole: WholeRow, r: int, m: int) -> Candidates:
    noised = np.argsort(-whole.scores, kind="stable")[:r]
    top = np.argsort(-whole.processed, kind="stable")[:m]
    result = StepResult(
        noised_ids=to_wire(noised, I32),
        noised_scores=to_wire(whole.scores[noised], F32),
        noised_processed=to_wire(whole.processed[noised], F32),
        noised_raw=to_wire(whole.raw[noised], F32),
        top_ids=to_wire(top, I32),
        top_processed=to_wire(whole.processed[top], F32),
        processed_lse=to_wire([np.log(np.exp(whole.processed.astype(np.float64)).sum())], F32),
        raw_lse=to_wire([0], F32),
    )
    return merge_sampled([result], [VocabularySlice(0, 6)], 1, r, m, 0)


@pytest.mark.parametrize(
    ("params", "winners", "expected"),
    [
        (SamplingParams(), [3, 1], 3),
        (SamplingParams(temperature=1), [5, 1], 5),
        (SamplingParams(temperature=1, top_k=1), [5, 2, 1], 1),
        (SamplingParams(temperature=1, top_k=2), [5, 4, 2], 2),
        (SamplingParams(temperature=1, top_k=3), [5, 4, 2], 4),
        (SamplingParams(temperature=1, top_p=0.39), [2, 1], 1),
        (SamplingParams(temperature=1, top_p=0.41), [2, 1], 2),
        (SamplingParams(temperature=1, top_p=0.66), [3, 4, 1], 4),
        (SamplingParams(temperature=1, top_p=1e-9), [5, 4, 3, 2, 1], 1),
        (SamplingParams(temperature=1, top_k=2, top_p=0.6), [2, 1], 1),  # 0.4 of 0.65 reaches 0.6
        (SamplingParams(temperature=1, top_k=3, top_p=0.6), [4, 2], 2),  # 0.65 of 0.8 does
        (SamplingParams(temperature=1, top_k=6), [5, 1], 5),
        (SamplingParams(temperature=1, min_p=0.3), [3, 4], 4),  # 0.15 >= 0.3 * 0.4 > 0.1
        (SamplingParams(temperature=1, min_p=1.0), [2, 1], 1),
        (SamplingParams(temperature=1, top_p=0.9, min_p=0.5), [4, 2], 2),
    ],
)
@pytest.mark.parametrize("m", [3, 6])
def test_choices(params: SamplingParams, winners: list[int], expected: int, m: int) -> None:
    whole = row(winners)
    choice = choose(candidates(whole, len(winners), m), 0, params)
    assert choice == Choice(expected, float(whole.raw[expected]))
    assert choose_from_whole(whole, params) == choice


@pytest.mark.parametrize(
    ("params", "r", "m"),
    [
        (SamplingParams(temperature=1, top_p=0.9), 6, 2),  # place 2 or beyond, and the known mass is 0.65
        (SamplingParams(temperature=1, top_k=4), 6, 2),
        (SamplingParams(temperature=1, top_k=4, top_p=0.9), 6, 2),
        (SamplingParams(temperature=1, top_k=2), 1, 6),  # the one candidate is cut
        (SamplingParams(temperature=1, min_p=0.1), 6, 0),  # the largest is not known
        (SamplingParams(temperature=1, top_p=float(np.float32(0.65))), 6, 3),  # too close to a sum of probabilities
    ],
)
def test_what_the_records_leave_open(params: SamplingParams, r: int, m: int) -> None:
    assert choose(candidates(row([4, 2, 1]), r, m), 0, params) == Undecided(0)
    choose_from_whole(row([4, 2, 1]), params)


def test_ties_go_to_lower_ids() -> None:
    flat = WholeRow(np.zeros(6, np.float32), np.arange(6, dtype=np.float32), np.zeros(6, np.float32))
    for params, expected in [
        (SamplingParams(temperature=1, top_k=3), 2),
        (SamplingParams(temperature=1, top_p=0.34), 2),
        (SamplingParams(temperature=1, min_p=1.0), 5),
    ]:
        assert choose(candidates(flat, 6, 6), 0, params) == Choice(expected, 0.0)
        assert choose_from_whole(flat, params) == Choice(expected, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail_the_request(bad: float) -> None:
    whole = row([1])
    processed = whole.processed.copy()
    processed[3] = bad
    for broken in (WholeRow(processed, whole.scores, whole.raw), WholeRow(whole.processed, whole.scores, processed)):
        with pytest.raises(RequestFailed):
            choose_from_whole(broken, SamplingParams(temperature=1, top_p=0.5))
    records = StepResult(
        noised_ids=to_wire([3], I32),
        noised_scores=to_wire([bad], F32),
        noised_processed=to_wire([bad], F32),
        noised_raw=to_wire([bad], F32),
        processed_lse=to_wire([bad], F32),
        raw_lse=to_wire([0], F32),
    )
    with pytest.raises(RequestFailed):
        choose(merge_sampled([records], [VocabularySlice(0, 6)], 1, 1, 0, 0), 0, SamplingParams())


def test_bounds_enclose_the_truth() -> None:
    """kept_tokens from the best n tokens never contradicts kept_tokens from all."""
    random = np.random.default_rng(0)
    for _ in range(2000):
        size = int(random.integers(2, 60))
        processed = -np.sort(-random.normal(size=size) * random.choice([0.1, 1, 5])).astype(np.float32)
        mass = np.exp(processed.astype(np.float64) - float(processed[0])).cumsum()
        params = SamplingParams(
            temperature=1,
            top_k=int(random.integers(0, size + 5)),
            top_p=float(random.uniform(0.01, 1)),
        )
        whole = kept_tokens(mass, processed, None, params)
        known = int(random.integers(1, size))
        lse = float(np.float32(log(mass[-1]) + float(processed[0])))
        part = kept_tokens(mass[:known], processed[:known], lse, params)
        assert part.low <= whole.low == whole.high <= part.high
