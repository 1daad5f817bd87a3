"""The best token by noised score at each sampled position: all that draws without truncation and logprobs need.

Plain numbers, no numpy: of a step's few positions an array operation costs more than a loop.
"""

from array import array
from collections.abc import Sequence
from math import inf
from typing import Any

from common.errors import Refused
from gateway.sampling.lists import VocabularySlice
from tandem.shard.v1.shard_service_pb2 import StepResult


def winners(results: Sequence[StepResult], slices: Sequence[VocabularySlice], num_positions: int) -> list[int | None]:
    """Return P token ids, ties to the lowest; None where the model or the parameters made what is not finite.

    results[i] answers a plan whose num_noised is 1, for the rank that holds slices[i]; slices lie in the order of ids.
    The same tokens as `choose` draws of merged Candidates. Raises Refused(BAD_PLAN) as `merge_sampled` does.
    """
    best_ids: list[int] = []
    best_scores: list[float] = []
    processed_lses, raw_lses = [], []
    for result, owner in zip(results, slices, strict=True):
        ids = _read("i", result.noised_ids, num_positions, "noised_ids").tolist()
        scores = _read("f", result.noised_scores, num_positions, "noised_scores").tolist()
        processed_lses.append(_read("f", result.processed_lse, num_positions, "processed_lse"))
        raw_lses.append(_read("f", result.raw_lse, num_positions, "raw_lse"))
        if ids and not owner.first_id <= min(ids) <= max(ids) < owner.first_id + owner.size:
            raise Refused("BAD_PLAN", f"noised_ids: an id outside of {owner}")
        if not best_ids:
            best_ids, best_scores = ids, scores
            continue
        for position, score in enumerate(scores):
            if score > best_scores[position]:
                best_ids[position], best_scores[position] = ids[position], score
    are_finite = map(_is_finite, zip(*processed_lses, strict=True), zip(*raw_lses, strict=True))
    return [token_id if is_finite else None for token_id, is_finite in zip(best_ids, are_finite, strict=True)]


def _is_finite(*lses_of_slices: Sequence[float]) -> bool:
    """Whether the log-sum-exps of all slices together are finite. One of several slices may be ruled out: -inf."""
    return all(max(lses) > -inf and all(lse < inf for lse in lses) for lses in lses_of_slices)  # no NaN is below inf


def _read(typecode: str, data: bytes, count: int, name: str) -> "array[Any]":
    values = array(typecode)
    if len(data) != count * values.itemsize:
        raise Refused("BAD_PLAN", f"{name}: {len(data)} bytes are not {count} values")
    values.frombytes(data)
    return values
