"""From the records of a step to the tokens it drafts: the best two by noised score that truncation keeps.

The same lemma as in the gateway: the best noised token of any allowed set is the first allowed one in noised order. The
lists are short; where they cannot tell, a token counts as allowed, which costs acceptance and nothing else.
"""

from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
import numpy.typing as npt

from common.arrays import F32, I32, from_wire
from draft_worker.proposer import Token
from tandem.draft.v1.draft_service_pb2 import Sampling
from tandem.shard.v1.shard_service_pb2 import StepResult

Floats = npt.NDArray[np.float32]

NUM_NOISED, NUM_NOISED_TRUNCATED, NUM_TOP = 2, 8, 64


def truncates(sampling: Sampling) -> bool:
    """Return whether the request's draws leave tokens out."""
    return sampling.temperature > 0 and (sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0)


@dataclass(frozen=True)
class Records:
    """The lists of StepResult that a draft needs, of P sampled positions."""

    noised_ids_Pr: npt.NDArray[np.int32]
    noised_scores_Pr: Floats
    noised_processed_Pr: Floats
    top_processed_Pm: Floats
    lse_P: Floats

    @classmethod
    def of(cls, result: StepResult, num_positions: int) -> "Records":
        """Read a step's result."""
        shape = (num_positions, -1)
        num_top = len(result.top_processed) // (4 * num_positions)
        return cls(
            from_wire(result.noised_ids, I32, shape, "noised_ids"),
            from_wire(result.noised_scores, F32, shape, "noised_scores"),
            from_wire(result.noised_processed, F32, shape, "noised_processed"),
            from_wire(result.top_processed, F32, (num_positions, num_top), "top_processed"),
            from_wire(result.processed_lse, F32, (num_positions,), "processed_lse"),
        )

    def token(self, position: int, sampling: Sampling) -> Token:
        """Return the token drafted at a sampled position."""
        ids = self.noised_ids_Pr[position].tolist()
        scores, processed = self.noised_scores_Pr[position].tolist(), self.noised_processed_Pr[position].tolist()
        kept = list(range(len(ids)))
        if truncates(sampling):
            floor = self._floor(position, sampling)
            kept = [index for index in kept if processed[index] >= floor] or kept[:1]
        first = kept[0]
        probability = exp(min(0.0, processed[first] - float(self.lse_P[position])))
        if len(kept) == 1:
            # Nothing else is allowed, as far as is known: the margin is that of what was not.
            return Token(ids[first], probability, _gap(scores[first], scores[-1]), -1)
        second = kept[1]
        return Token(ids[first], probability, _gap(scores[first], scores[second]), ids[second])

    def _floor(self, position: int, sampling: Sampling) -> float:
        """Return the smallest processed logit that top_k, top_p and min_p keep, as far as the top list tells."""
        top = self.top_processed_Pm[position]
        floor = -inf
        if sampling.min_p > 0:
            floor = float(top[0]) + log(sampling.min_p)
        if 0 < sampling.top_k <= len(top):
            floor = max(floor, float(top[sampling.top_k - 1]))
            top = top[: sampling.top_k]
        if sampling.top_p < 1:
            whole = float(np.logaddexp.reduce(top)) if sampling.top_k else float(self.lse_P[position])
            above = np.cumsum(np.exp(top - whole))
            reached = int(np.searchsorted(above, sampling.top_p))
            if reached < len(top):
                floor = max(floor, float(top[reached]))
        return floor


def _gap(first: float, second: float) -> float:
    """Return a finite margin, 0 where the model made no numbers."""
    gap = first - second
    return gap if 0 <= gap < inf else 0.0
