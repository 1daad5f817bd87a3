"""Log-probabilities of the model itself: before temperature, penalties, bias and truncation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.errors import RequestFailed
from gateway.sampling.candidates import Candidates, ScoredCandidates
from gateway.sampling.sampler import Choice


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One position: the token's natural log-probability, and the most likely tokens (ties by lower id)."""

    logprob: float
    top_ids: tuple[int, ...]
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScoredLogprobs:
    """N scored positions: float64[N]; the n most likely tokens, int32[N, n] and float64[N, n] (ties by lower
    id).

    is_greedy[i] says whether the scored token is the model's own first choice.
    """

    logprobs: npt.NDArray[np.float64]
    top_ids: npt.NDArray[np.int32]
    top_logprobs: npt.NDArray[np.float64]
    is_greedy: npt.NDArray[np.bool_]


def token_logprobs(candidates: Candidates, position: int, choice: Choice, num_top: int) -> TokenLogprobs:
    """Return the log-probability of a drawn token and of the num_top most likely ones at its position.

    num_top is at most the plan's num_raw (and is cut to the vocabulary).
    """
    lse = float(candidates.raw_lse[position])
    ids = candidates.raw_ids[position, :num_top].tolist()
    logits = candidates.raw_logits[position, :num_top].tolist()
    return TokenLogprobs(choice.raw_logit - lse, tuple(ids), tuple(logit - lse for logit in logits))


def scored_logprobs(
    scored: ScoredCandidates, first: int, scored_ids: npt.NDArray[np.int32], num_top: int
) -> ScoredLogprobs:
    """Return the log-probabilities of scored_ids, int32[N]: the step's scored positions from `first` on.

    num_top is at most the plan's num_scored_raw (and is cut to the vocabulary). Raises RequestFailed when the
    model's logits are not finite.
    """
    rows = slice(first, first + len(scored_ids))
    lse = scored.lse[rows]
    if not np.isfinite(lse).all():
        raise RequestFailed("the model's logits are not finite")
    return ScoredLogprobs(
        logprobs=scored.logits[rows] - lse,
        top_ids=scored.raw_ids[rows, :num_top],
        top_logprobs=scored.raw_logits[rows, :num_top].astype(np.float64) - lse[:, None],
        is_greedy=scored.raw_ids[rows, 0] == scored_ids,
    )
