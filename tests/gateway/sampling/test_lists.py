"""Merging sorted lists of slices: order, ties, and how far the result is sure."""

from itertools import pairwise

import numpy as np
import pytest

from common.errors import Refused
from gateway.sampling.lists import Columns, VocabularySlice, check_ids, merge_lists


def head(values: list[float], owner: VocabularySlice, length: int) -> Columns:
    own = np.array(values[owner.first_id : owner.first_id + owner.size], np.float32)
    order = np.argsort(-own, kind="stable")[:length]
    return (order + owner.first_id).astype(np.int32)[None], own[order][None]


@pytest.mark.parametrize("seed", range(200))
def test_sure_entries_are_the_head_of_the_whole(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(4, 40))
    values = random.normal(size=size).round(int(random.integers(0, 3))).tolist()  # coarse, so ties
    cuts = sorted({0, size, *random.integers(1, size, int(random.integers(0, 4))).tolist()})
    slices = [VocabularySlice(a, b - a) for a, b in pairwise(cuts)]
    length = int(random.integers(1, 12))
    (ids, found), exact = merge_lists([head(values, owner, length) for owner in slices], slices)
    order = np.argsort(-np.array(values, np.float32), kind="stable")
    sure = int(exact[0])
    assert sure >= min(length, size)
    assert ids[0, :sure].tolist() == order[:sure].tolist()
    assert found[0, :sure].tolist() == np.array(values, np.float32)[order[:sure]].tolist()


def test_an_incomplete_list_ends_what_is_sure() -> None:
    slices = [VocabularySlice(0, 2), VocabularySlice(2, 10)]
    complete = np.array([[0, 1]], np.int32), np.array([[5, 1]], np.float32)
    incomplete = np.array([[4, 3]], np.int32), np.array([[4, 2]], np.float32)
    (ids, _), exact = merge_lists([complete, incomplete], slices)
    assert ids.tolist() == [[0, 4, 3, 1]] and exact.tolist() == [3]


def test_empty_lists_and_no_rows() -> None:
    slices = [VocabularySlice(0, 4), VocabularySlice(4, 4)]
    for shape in ((3, 0), (0, 0), (0, 2)):
        empty = np.empty(shape, np.int32), np.empty(shape, np.float32)
        (ids, _), exact = merge_lists([empty, empty], slices)
        assert ids.size == 0 and len(exact) == shape[0]


@pytest.mark.parametrize("token_id", [-1, 9, 15, 2**31 - 1])
def test_ids_of_other_slices_are_refused(token_id: int) -> None:
    owner = VocabularySlice(10, 5)
    check_ids(np.array([[10, 14]], np.int32), owner, "top_ids")
    with pytest.raises(Refused, match="top_ids"):
        check_ids(np.array([[10, token_id]], np.int32), owner, "top_ids")
