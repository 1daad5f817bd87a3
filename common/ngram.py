"""Prompt lookup: what followed the last time the text went like this? A draft without a model.

Saxena 2023, "Prompt Lookup Decoding"; the longest earlier match of the text's end decides, as in LLMA (Yang et al.
2023, arXiv 2304.04487). The ids themselves are searched, with numpy: 8,000 ids take some 20 microseconds, and nothing
but the ids is held.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

# Matching further changes little: a suffix this long hardly ever occurs by chance.
MAX_MATCH = 16
# A single id that occurred before says next to nothing of what comes.
MIN_MATCH = 2


@dataclass(frozen=True, slots=True)
class Lookup:
    """What followed the most recent of the longest matches.

    ids: int32[n], the continuation. places: intp[p], where in the text each of the longest matches went on, rising.
    match_length: how many ids at the text's end were found before, MAX_MATCH at most; 0 for none.
    """

    ids: Ids
    places: npt.NDArray[np.intp]
    match_length: int


NOTHING = Lookup(np.empty(0, np.int32), np.empty(0, np.intp), 0)


def look_up(ids: Ids, count: int, min_match: int = MIN_MATCH, max_match: int = MAX_MATCH) -> Lookup:
    """Return what may follow `ids`, int32[L]: `count` ids, or none where its last `min_match` ids are new.

    A match that reaches into the text's end goes on with its own continuation, as in LZ77: "ab ab ab" repeats.
    """
    if count < 1 or len(ids) <= min_match:
        return NOTHING
    # Each match is the place of the id that followed it. Most go no further than one id: they are gone at once.
    places = np.flatnonzero(ids[:-1] == ids[-1]) + 1
    if min_match > 1:
        places = places[places > 1]
        places = places[ids[places - 2] == ids[-2]]
    if not len(places):
        return NOTHING
    lengths = _match_lengths(ids, places, min(max_match, len(ids) - 1))
    longest = int(lengths.max())
    if longest < min_match:
        return NOTHING
    places = places[lengths == longest]
    return Lookup(_repeated(ids[places[-1] :], count), places, longest)


def agreement(ids: Ids, found: Lookup) -> npt.NDArray[np.float32]:
    """Return, float32[n], the share of the longest matches in `ids` that went on like `found` up to each of its ids."""
    agreeing, shares = found.places, np.zeros(len(found.ids), np.float32)
    for index, id_ in enumerate(found.ids):
        inside = agreeing[agreeing + index < len(ids)]
        # Places are in order; those whose text has ended, the last ones, no longer disagree.
        ended = len(agreeing) - len(inside)
        agreeing = np.concatenate((inside[ids[inside + index] == id_], agreeing[len(agreeing) - ended :]))
        shares[index] = len(agreeing) / len(found.places)
    return shares


def _match_lengths(ids: Ids, places: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.intp]:
    """Return how many ids before each of `places` are those at the text's end, `most` at most, which is below L."""
    before = places[:, None] - np.arange(1, most + 1)
    same = (ids[before] == ids[: -most - 1 : -1]) & (before >= 0)  # what wraps around is not before
    return np.where(same.all(axis=1), most, same.argmin(axis=1))


def _repeated(tail: Ids, count: int) -> Ids:
    """Return the first `count` of tail, tail, tail, ...: past the text's end the draft reads itself."""
    return np.resize(tail, count) if count > len(tail) else tail[:count].copy()
