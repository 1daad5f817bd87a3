"""Which tokens top_k, top_p and min_p keep, as far as the best few tokens tell.

In the order (larger processed logit first, then lower id) each of the three keeps a prefix. So what they keep
is known from how long the top_k and top_p prefix is, and from the smallest logit that min_p lets pass.
"""

from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
import numpy.typing as npt

from gateway.sampling.params import SamplingParams

Doubles = npt.NDArray[np.float64]

# What float32 may have done to a rank's log-sum-exp: its own rounding, and that of the sum. Masses this close
# to top_p are left to the fallback, which adds them up exactly.
_LSE_RELATIVE_ERROR = 2.0**-22
_SUM_RELATIVE_ERROR = 2.0**-18


@dataclass(frozen=True, slots=True)
class Kept:
    """At least the first `low` tokens pass top_k and top_p, and at most the first `high`.

    min_processed is what min_p asks of a processed logit.
    """

    low: float
    high: float
    min_processed: float

    def verdict(self, first_place: int, last_place: int, processed: float) -> bool | None:
        """Whether a token whose place is first_place .. last_place is kept; None when unknown."""
        if processed < self.min_processed or first_place >= self.high:
            return False
        return True if last_place < self.low else None


def kept_tokens(mass: Doubles, processed: npt.NDArray[np.float32], lse: float | None, params: SamplingParams) -> Kept:
    """Return what is kept when the best n >= 1 tokens are known.

    mass: float64[n], running sums of exp(processed - processed[0]). processed: float32[n], sorted. lse:
    log-sum-exp of the processed logits of all tokens, or None when the n are all there are.
    """
    known, largest = len(mass), float(processed[0])
    low: float = inf
    high: float = inf
    if params.top_k > 0:
        low = high = float(params.top_k)
    if params.top_p < 1:
        total_low, total_high = _total_mass(mass, processed, lse, params.top_k)
        surely = at_most = 1 + int(mass.searchsorted(params.top_p * total_low))
        if total_high > total_low:
            at_most = 1 + int(mass.searchsorted(params.top_p * total_high))
        low = min(low, surely)
        high = min(high, at_most if at_most <= known or lse is None else inf)
    return Kept(low, high, largest + log(params.min_p) if params.min_p > 0 else -inf)


def _total_mass(
    mass: Doubles, processed: npt.NDArray[np.float32], lse: float | None, top_k: int
) -> tuple[float, float]:
    """Bounds of the mass that top_p is a share of: of the top_k tokens, or of all."""
    known = len(mass)
    if 0 < top_k <= known:
        return float(mass[top_k - 1]), float(mass[top_k - 1])
    if lse is None:
        return float(mass[-1]), float(mass[-1])
    largest = float(processed[0])
    error = _SUM_RELATIVE_ERROR + _LSE_RELATIVE_ERROR * abs(lse)
    total = exp(lse - largest)
    if top_k == 0:
        return total * (1 - error), total * (1 + error)
    unknown = (top_k - known) * exp(float(processed[-1]) - largest)
    return float(mass[-1]), min(total * (1 + error), float(mass[-1]) + unknown)
