"""One step's StepResults of all ranks, merged: what the whole vocabulary looks like, as far as it was
reported.

Shapes: P sampled positions, S scored ones, n entries of a merged list, V the whole vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.arrays import F32, I32, from_wire
from common.errors import Refused
from gateway.sampling.lists import Floats, Ints, VocabularySlice, check_ids, merge_lists
from tandem.shard.v1.shard_service_pb2 import Resolved, StepResult

Doubles = npt.NDArray[np.float64]
Counts = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The merged records of P sampled positions.

    The first noised_exact[p] and top_exact[p] entries of row p are sure: the best of the whole vocabulary, in
    order. So are as many entries of the raw list as the plan asked for.

    top_mass[p, i] is the sum of exp(processed - largest processed) over the first i + 1 entries of the top
    list. is_finite[p] is False where the model or the parameters made a log-sum-exp that is not finite.
    """

    noised_ids: Ints
    noised_processed: Floats
    noised_raw: Floats
    noised_exact: Counts
    top_ids: Ints
    top_processed: Floats
    top_mass: Doubles
    top_exact: Counts
    raw_ids: Ints
    raw_logits: Floats
    processed_lse: Doubles
    raw_lse: Doubles
    is_finite: npt.NDArray[np.bool_]
    vocabulary_size: int


@dataclass(frozen=True, slots=True)
class ScoredCandidates:
    """The merged records of S scored positions: the given tokens' raw logits, and the best tokens by raw
    logit.
    """

    logits: Doubles
    lse: Doubles
    raw_ids: Ints
    raw_logits: Floats


@dataclass(frozen=True, slots=True)
class WholeRow:
    """The whole vocabulary at one position, index = token id: float32[V] each."""

    processed: Floats
    scores: Floats
    raw: Floats


def merge_sampled(
    results: Sequence[StepResult],
    slices: Sequence[VocabularySlice],
    num_positions: int,
    num_noised: int,
    num_top: int,
    num_raw: int,
) -> Candidates:
    """Merge the sampled positions of a step. results[i] is the answer of the rank that holds slices[i].

    num_positions is P; the list lengths are the plan's. Raises Refused(BAD_PLAN) when a field has the wrong
    length or names an id outside the rank's slice.
    """
    noised, tops, raws, processed_lses, raw_lses = [], [], [], [], []
    for result, owner in zip(results, slices, strict=True):
        shape = (num_positions, min(num_noised, owner.size))
        ids = from_wire(result.noised_ids, I32, shape, "noised_ids")
        scores = from_wire(result.noised_scores, F32, shape, "noised_scores")
        processed = from_wire(result.noised_processed, F32, shape, "noised_processed")
        raw = from_wire(result.noised_raw, F32, shape, "noised_raw")
        check_ids(ids, owner, "noised_ids")
        noised.append((ids, scores, processed, raw))
        tops.append(_list(result, "top_ids", "top_processed", owner, num_positions, num_top))
        raws.append(_list(result, "raw_ids", "raw_logits", owner, num_positions, num_raw))
        processed_lses.append(from_wire(result.processed_lse, F32, (num_positions,), "processed_lse"))
        raw_lses.append(from_wire(result.raw_lse, F32, (num_positions,), "raw_lse"))
    (noised_ids, _, noised_processed, noised_raw), noised_exact = merge_lists(noised, slices)
    (top_ids, top_processed), top_exact = merge_lists(tops, slices)
    (raw_ids, raw_logits), _ = merge_lists(raws, slices)
    processed_lse = combine_lse(processed_lses)
    raw_lse = combine_lse(raw_lses)
    return Candidates(
        noised_ids=noised_ids,
        noised_processed=noised_processed,
        noised_raw=noised_raw,
        noised_exact=noised_exact,
        top_ids=top_ids,
        top_processed=top_processed,
        top_mass=cumulative_mass(top_processed),
        top_exact=top_exact,
        raw_ids=raw_ids,
        raw_logits=raw_logits,
        processed_lse=processed_lse,
        raw_lse=raw_lse,
        is_finite=np.isfinite(processed_lse) & np.isfinite(raw_lse),
        vocabulary_size=sum(owner.size for owner in slices),
    )


def merge_scored(
    results: Sequence[StepResult], slices: Sequence[VocabularySlice], num_positions: int, num_raw: int
) -> ScoredCandidates:
    """Merge the scored positions of a step; num_positions is S, num_raw the plan's num_scored_raw.

    Raises Refused(BAD_PLAN) as merge_sampled does.
    """
    logits, lses, raws = [], [], []
    for result, owner in zip(results, slices, strict=True):
        logits.append(from_wire(result.scored_logits, F32, (num_positions,), "scored_logits"))
        lses.append(from_wire(result.scored_lse, F32, (num_positions,), "scored_lse"))
        raws.append(_list(result, "scored_raw_ids", "scored_raw_logits", owner, num_positions, num_raw))
    (raw_ids, raw_logits), _ = merge_lists(raws, slices)
    best = np.maximum.reduce(logits).astype(np.float64)
    return ScoredCandidates(best, combine_lse(lses), raw_ids, raw_logits)


def join_slices(resolved: Sequence[Resolved], slices: Sequence[VocabularySlice]) -> WholeRow:
    """Return the whole row that the ranks' answers to one Resolve hold together.

    Raises Refused(BAD_PLAN) when one of them is not the slice that its rank holds.
    """
    parts: list[tuple[Floats, Floats, Floats]] = []
    for answer, owner in zip(resolved, slices, strict=True):
        if answer.first_id != owner.first_id:
            raise Refused("BAD_PLAN", f"first_id: {answer.first_id} of {owner}")
        processed = from_wire(answer.processed, F32, (owner.size,), "processed")
        scores = from_wire(answer.scores, F32, (owner.size,), "scores")
        parts.append((processed, scores, from_wire(answer.raw, F32, (owner.size,), "raw")))
    return WholeRow(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def combine_lse(lses: Sequence[Floats]) -> Doubles:
    """Return the log-sum-exp of the vocabulary, float64[P], from those of its slices, float32[P] each."""
    if len(lses) == 1:
        return lses[0].astype(np.float64)
    with np.errstate(invalid="ignore"):  # a NaN is reported by is_finite
        return np.asarray(np.logaddexp.reduce(np.array(lses, np.float64), axis=0))


def cumulative_mass(processed: Floats) -> Doubles:
    """Return float64[P, n]: running sums of exp(processed - processed[:, :1]) along a list that is sorted."""
    if not processed.size:
        return np.empty(processed.shape)
    values = processed.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # rows that are not finite are reported by is_finite
        return np.asarray(np.exp(values - values[:, :1]).cumsum(axis=1))


def _list(
    result: StepResult,
    ids_name: str,
    values_name: str,
    owner: VocabularySlice,
    num_positions: int,
    length: int,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    shape = (num_positions, min(length, owner.size))
    ids = from_wire(getattr(result, ids_name), I32, shape, ids_name)
    check_ids(ids, owner, ids_name)
    return ids, from_wire(getattr(result, values_name), F32, shape, values_name)
