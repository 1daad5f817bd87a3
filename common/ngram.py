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

    ids: int32[n], the continuation. shares: float32[n], the share of equally long matches that went on like this up to
    and with each id. match_length: how many ids at the text's end were found before, MAX_MATCH at most; 0 for none.
    """

    ids: Ids
    shares: npt.NDArray[np.float32]
    match_length: int


NOTHING = Lookup(np.empty(0, np.int32), np.empty(0, np.float32), 0)


def look_up(ids: Ids, count: int, min_match: int = MIN_MATCH, max_match: int = MAX_MATCH) -> Lookup:
    """Return what may follow `ids`, int32[L]: `count` ids, or none where its last `min_match` ids are new.

    A match that reaches into the text's end goes on with its own continuation, as in LZ77: "ab ab ab" repeats.
    """
    if count < 1 or len(ids) <= min_match:
        return NOTHING
    # Each match is the place of the id that followed it.
    places = np.flatnonzero(ids[:-1] == ids[-1]) + 1
    length = 1
    while len(places) and length < max_match:
        inside = places[places > length]
        longer = inside[ids[inside - length - 1] == ids[-length - 1]]
        if not len(longer):
            break
        places, length = longer, length + 1
    if not len(places) or length < min_match:
        return NOTHING
    draft = _repeated(ids[places[-1] :], count)
    return Lookup(draft, _shares(ids, places, draft), length)


def _repeated(tail: Ids, count: int) -> Ids:
    """Return the first `count` of tail, tail, tail, ...: past the text's end the draft reads itself."""
    return np.resize(tail, count) if count > len(tail) else tail[:count].copy()


def _shares(ids: Ids, places: npt.NDArray[np.intp], draft: Ids) -> npt.NDArray[np.float32]:
    """Return, for each drafted id, the share of `places` whose text agrees with the draft so far."""
    agreeing, shares = places, np.zeros(len(draft), np.float32)
    for index, id_ in enumerate(draft):
        inside = agreeing[agreeing + index < len(ids)]
        # Places are in order; those whose text has ended, the last ones, no longer disagree.
        ended = len(agreeing) - len(inside)
        agreeing = np.concatenate((inside[ids[inside + index] == id_], agreeing[len(agreeing) - ended :]))
        shares[index] = len(agreeing) / len(places)
    return shares
