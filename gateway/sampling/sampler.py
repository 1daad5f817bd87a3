"""The draw: the best token by noised score among those that top_k, top_p and min_p keep.

Lazy masking: for any set of kept tokens, the draw from it is the first kept token in the order of noised
scores. So membership is asked of a few candidates only, and whole slices are fetched just where the records
leave it open.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import RequestFailed
from gateway.sampling.candidates import Candidates, WholeRow, cumulative_mass
from gateway.sampling.params import SamplingParams
from gateway.sampling.truncation import Kept, kept_tokens


@dataclass(frozen=True, slots=True)
class Choice:
    """The token that was drawn and its raw logit."""

    token_id: int
    raw_logit: float


@dataclass(frozen=True, slots=True)
class Undecided:
    """The records do not decide this sampled position: resolve it, then choose_from_whole. To be counted."""

    position: int


def choose(candidates: Candidates, position: int, params: SamplingParams) -> Choice | Undecided:
    """Draw the token at a sampled position of a step. Exact whenever it decides.

    Raises RequestFailed when the model's logits, or what the parameters made of them, are not finite.
    """
    if not candidates.is_finite[position]:
        raise RequestFailed("the model's logits are not finite")
    if not params.is_truncated:
        return _choice(candidates, position, 0)
    ids = candidates.top_ids[position, : candidates.top_exact[position]]
    if not ids.size:
        return Undecided(position)
    kept = _kept(candidates, position, len(ids), params)
    for index in range(int(candidates.noised_exact[position])):
        places = (ids == candidates.noised_ids[position, index]).nonzero()[0]
        first, last = (int(places[0]),) * 2 if places.size else (len(ids), candidates.vocabulary_size - 1)
        verdict = kept.verdict(first, last, float(candidates.noised_processed[position, index]))
        if verdict is None:
            break
        if verdict:
            return _choice(candidates, position, index)
    return Undecided(position)


def choose_from_whole(row: WholeRow, params: SamplingParams) -> Choice:
    """Draw the token of one position from the whole vocabulary.

    Raises RequestFailed when the logits are not finite.
    """
    if not np.isfinite(row.raw.max()) or not np.isfinite(row.processed.max()):
        raise RequestFailed("the model's logits are not finite")
    scores = row.scores
    if params.is_truncated:
        order = _best_first(row.processed)
        processed = row.processed[order]
        kept = kept_tokens(cumulative_mass(processed[None])[0], processed, None, params)
        count = int(min(kept.high, len(order)))
        scores = np.full_like(row.scores, -np.inf)
        ids = order[:count][processed[:count].astype(np.float64) >= kept.min_processed]
        scores[ids] = row.scores[ids]
    token_id = int(scores.argmax())
    return Choice(token_id, float(row.raw[token_id]))


def _best_first(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the ids by larger value, then lower id. Integers are sorted in half the time of a stable argsort."""
    bits = (np.float32(0) - values).view(np.int32)  # no -0 comes out of it
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64)
    keys = ascending << 32 | np.arange(len(values))
    keys.sort()
    return np.asarray(keys & 0xFFFFFFFF)


def _kept(candidates: Candidates, position: int, known: int, params: SamplingParams) -> Kept:
    mass: npt.NDArray[np.float64] = candidates.top_mass[position, :known]
    lse = None if known == candidates.vocabulary_size else float(candidates.processed_lse[position])
    return kept_tokens(mass, candidates.top_processed[position, :known], lse, params)


def _choice(candidates: Candidates, position: int, index: int) -> Choice:
    return Choice(int(candidates.noised_ids[position, index]), float(candidates.noised_raw[position, index]))
