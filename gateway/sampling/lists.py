"""Merging sorted lists of disjoint slices of the vocabulary into one.

Every list holds the best entries of its slice in the order (larger value first, then lower id). So does the
merged one, up to the first entry that is the last of an incomplete list: what that rank left out may come
right after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import Refused

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Columns = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class VocabularySlice:
    """The token ids first_id .. first_id + size - 1 that one rank holds (GetInfoResponse)."""

    first_id: int
    size: int


def check_ids(ids: Ints, owner: VocabularySlice, name: str) -> None:
    """Raise Refused(BAD_PLAN) when an id lies outside the slice of the rank that reported it."""
    if ids.size and int((ids - owner.first_id).view(np.uint32).max()) >= owner.size:
        raise Refused("BAD_PLAN", f"{name}: an id outside of {owner}")


def merge_lists(ranks: Sequence[Columns], slices: Sequence[VocabularySlice]) -> tuple[Columns, npt.NDArray[np.intp]]:
    """Return the merged columns, [P, n] each with n the sum over ranks, and exact[P].

    ranks[i] is (ids int32[P, n_i], values float32[P, n_i], any further columns [P, n_i]). In row p the first
    exact[p] merged entries are the best of the whole vocabulary, none missing; later ones may have gaps.
    """
    ids = ranks[0][0]
    if len(ranks) == 1:
        return ranks[0], np.full(len(ids), ids.shape[1], np.intp)
    columns = [np.concatenate(parts, axis=1) for parts in zip(*ranks, strict=True)]
    num_rows, width = columns[0].shape
    order = np.lexsort((columns[0], -columns[1]))
    flat = order + np.arange(num_rows)[:, None] * width
    merged = tuple(column.ravel()[flat] for column in columns)
    frontiers, end = [], 0
    for (rank_ids, *_), owner in zip(ranks, slices, strict=True):
        end += rank_ids.shape[1]
        if rank_ids.shape[1] < owner.size:
            frontiers.append(end - 1)
    if not frontiers or not width:
        return merged, np.full(num_rows, width, np.intp)
    is_frontier = np.zeros(width, np.bool_)
    is_frontier[frontiers] = True
    return merged, is_frontier[order].argmax(axis=1) + 1
