"""How likely is a drafted token accepted?

Asked per position: the chance that draft position j is accepted, given that all positions before it were. It differs
between requests, between sources of drafts, and between positions (research: .54/.27/.13 and .81/.63/.48 for whole
prefixes), so nothing is assumed of its form.
"""

from __future__ import annotations

from itertools import accumulate
from operator import mul

from gateway.limits import MAX_DRAFT_TOKENS

_START_CHANCE = 0.7
_START_WEIGHT = 4  # a chance that was only assumed counts as so many observations
_MEMORY = 20
_PRIOR_MEMORY = 200
_LEAST_CHANCE, _MOST_CHANCE = 0.01, 0.99


class Acceptance:
    """What was learned about one request and one source of drafts, or, without a prior, about a whole deployment.

    Each position's chance is the mean of its first observations, and exponentially weighted from then on, over about
    20 observations (200 without a prior). A position without observations takes the chance of the position before,
    scaled as the prior's two positions are to each other; the first position takes the prior's. All that is recorded
    is recorded in the prior too, so that a new request starts from what its predecessors were like.
    """

    def __init__(self, prior: Acceptance | None = None) -> None:
        self._prior = prior
        self._memory = _PRIOR_MEMORY if prior is None else _MEMORY
        self._chances = [0.0] * MAX_DRAFT_TOKENS
        self._weights = [0] * MAX_DRAFT_TOKENS
        self.rounds = 0
        self.drafted = 0
        self.accepted = 0
        self.accepted_at = [0] * MAX_DRAFT_TOKENS

    def record(self, drafted: int, accepted: int) -> None:
        """Learn that the first `accepted` of `drafted` tokens were what the target drew.

        `drafted` counts what was verified, 0 to MAX_DRAFT_TOKENS; a round without any teaches nothing.
        """
        assert 0 <= accepted <= drafted <= MAX_DRAFT_TOKENS
        if drafted == 0:
            return
        self.rounds += 1
        self.drafted += drafted
        self.accepted += accepted
        for position in range(accepted):
            self.accepted_at[position] += 1
            self._learn(position, 1.0)
        if accepted < drafted:
            self._learn(accepted, 0.0)
        if self._prior is not None:
            self._prior.record(drafted, accepted)

    def chance(self, position: int) -> float:
        """Return the chance, within 0.01 and 0.99, that `position` is accepted if all before it are."""
        return self.chances(position + 1)[position]

    def chances(self, count: int) -> list[float]:
        """Return `chance` of each of the first `count` positions."""
        chances: list[float] = []
        before, prior = _START_CHANCE, None
        for position in range(count):
            if self._weights[position]:
                before = self._chances[position]
            elif self._prior is not None:
                prior = prior or self._prior.chances(count)
                before = _clipped(before * prior[position] / prior[position - 1]) if position else prior[0]
            chances.append(before)
        return chances

    def prefix_chances(self, count: int) -> list[float]:
        """Return, for each of the first `count` positions, the chance that it and all before it are accepted."""
        return list(accumulate(self.chances(count), mul))

    def _learn(self, position: int, observed: float) -> None:
        if not self._weights[position]:
            self._chances[position] = self.chance(position)
            self._weights[position] = _START_WEIGHT
        self._weights[position] = min(self._weights[position] + 1, self._memory)
        chance = self._chances[position]
        self._chances[position] = _clipped(chance + (observed - chance) / self._weights[position])


def _clipped(chance: float) -> float:
    return min(max(chance, _LEAST_CHANCE), _MOST_CHANCE)
