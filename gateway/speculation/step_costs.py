"""How long does a step of so many tokens take, and how long is a step held up by waiting for drafts?"""

from math import inf

from gateway.limits import MAX_DRAFT_TOKENS
from gateway.speculation.cost_table import CostTable

LEAST_DEADLINE_S = 0.001
# What a wait for `count` tokens is bounded by, in steps: so much, and so much for each. A draft of a small part of the
# target's time never comes near; one of nearly half of it, as on the same cores, may still pay for long drafts.
MOST_DEADLINE_STEPS, MOST_DEADLINE_STEPS_OF_TOKEN = 1.0, 0.5

_BUCKETS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096)
_COST_OF_TOKEN = 0.08  # assumed until measured, as a share of a step of one token
_FIRST_OBSERVATIONS = 4
_CLIP = 1.25
_SMOOTHING = 0.1
_COMMON = 0.3
_START_DEADLINE_STEPS = 0.5
_WAIT_OF_TOKEN = 0.25  # assumed until measured, as a share of the wait for one token
_LEAST_WAIT_S = 1e-5
_WAIT_SMOOTHING = 0.2
_WAIT_COMMON = 0.5
_RISE, _FALL = 0.3, 0.05
_MISS_FACTOR = 1.5  # what did not arrive in time would have taken longer than was waited
_ARRIVAL_MEMORY = 10
_FORGIVENESS = 0.05


class StepCosts:
    """Measured durations of steps by their tokens: all rows' ids, of decodes and verifications alike."""

    def __init__(self) -> None:
        self._table = CostTable(_BUCKETS, _assumed_cost, _FIRST_OBSERVATIONS, _CLIP, _SMOOTHING, _COMMON)
        self._usual_s: float | None = None

    @property
    def usual_s(self) -> float | None:
        """Moving mean of the steps' durations, whatever their size; None before any was observed."""
        return self._usual_s

    def observe(self, tokens: int, duration_s: float) -> None:
        """Learn that a step of `tokens` took `duration_s`; both must be positive."""
        self._table.observe(tokens, duration_s)
        if self._usual_s is None:
            self._usual_s = duration_s
        clipped_s = min(max(duration_s, self._usual_s / _CLIP), self._usual_s * _CLIP)
        self._usual_s += _SMOOTHING * (clipped_s - self._usual_s)

    def predict(self, tokens: int) -> float | None:
        """Return the expected duration in seconds, which never falls with tokens.

        None until some size was observed four times: until then nothing can be said about gains, and nothing should
        be drafted.
        """
        return self._table.predict(tokens)

    def predict_each(self, first: int, count: int) -> list[float] | None:
        """Return `predict` of `count` numbers of tokens from `first` on."""
        return self._table.predict_each(first, count)


class DraftCosts:
    """The part of waiting for proposals that no step hides, by the count of tokens that were asked for.

    Waits are bounded by their own deadlines, so means need no clipping; where the draft runs ahead, most waits are
    nearly 0 and some take the whole drafting, and both kinds count.
    """

    def __init__(self, steps: StepCosts) -> None:
        self._steps = steps
        self._table = CostTable(range(1, MAX_DRAFT_TOKENS + 1), _assumed_wait, 1, inf, _WAIT_SMOOTHING, _WAIT_COMMON)
        self._usual_s: dict[int, float] = {}
        self._arrivals = [1.0] * (MAX_DRAFT_TOKENS + 1)

    def arrival_chance(self, count: int) -> float:
        """Return the moving share of waits for so many tokens that ended before the deadline; 1 at first.

        It never rises with `count`: what does not come in time would not if it were longer.
        """
        return min(self._arrivals[: count + 1])

    def observe(self, count: int, waited_s: float, arrived: bool) -> None:
        """Learn that a step was held up by `waited_s` (0 where it was hidden) for at most `count` tokens a row."""
        self._arrivals[count] += (arrived - self._arrivals[count]) / _ARRIVAL_MEMORY
        for longer in range(count + 1, MAX_DRAFT_TOKENS + 1) if arrived else ():
            # Forgiven slowly, so that a draft which became faster is found.
            self._arrivals[longer] += (1 - self._arrivals[longer]) * _FORGIVENESS
        self._table.observe(count, max(waited_s, _LEAST_WAIT_S))
        whole_s = waited_s if arrived else waited_s * _MISS_FACTOR
        # Rises faster than it falls, so that it stays near the waits that were not hidden, even if few.
        usual_s = self._usual_s.get(count, self._near_usual_s(count))
        self._usual_s[count] = usual_s + (_RISE if whole_s > usual_s else _FALL) * (whole_s - usual_s)

    def predict(self, count: int) -> float:
        """Return the expected wait in seconds, which never falls with `count`: 0 for none, and before any was seen."""
        return (self._table.predict(count) or 0.0) if count else 0.0

    def deadline_s(self, count: int) -> float:
        """Return how long waiting for `count` tokens makes sense: about twice the usual, from 1 ms on.

        A step's time bounds it, and half of another for each token: drafts that take longer can hardly pay.
        """
        most_s = (MOST_DEADLINE_STEPS + MOST_DEADLINE_STEPS_OF_TOKEN * count) * (self._steps.usual_s or 0.0)
        return max(min(2 * self._usual_s.get(count, self._near_usual_s(count)), most_s), LEAST_DEADLINE_S)

    def _near_usual_s(self, count: int) -> float:
        if not self._usual_s:
            return _START_DEADLINE_STEPS / 2 * (self._steps.usual_s or 0.0)
        return self._usual_s[min(self._usual_s, key=lambda known: (abs(known - count), -known))]


def _assumed_cost(tokens: float) -> float:
    return 1 + _COST_OF_TOKEN * (tokens - 1)


def _assumed_wait(count: float) -> float:
    return 1 + _WAIT_OF_TOKEN * (count - 1)
