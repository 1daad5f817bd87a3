"""How fast should drafting make decoding? The formula beside which measurements are printed."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.speculation.acceptance import Acceptance
from gateway.speculation.step_costs import DraftCosts, StepCosts


@dataclass(frozen=True, slots=True)
class Prediction:
    """What decoding `rows` requests at one draft length should give.

    tokens_per_pass: expected tokens of one row per step. pass_s: from one step to the next. speed_up: over a draft
    length of 0, which pays the same overhead.
    """

    rows: int
    tokens_per_pass: float
    pass_s: float
    plain_pass_s: float

    @property
    def tokens_per_s(self) -> float:
        """Expected tokens per second of all rows together."""
        return self.rows * self.tokens_per_pass / self.pass_s

    @property
    def speed_up(self) -> float:
        return self.tokens_per_pass * self.plain_pass_s / self.pass_s


def expected_tokens(chances: Sequence[float]) -> float:
    """Return the expected tokens of a verification: one, and each draft token with all before it.

    `chances` are conditional, by position. With equal ones this is (1 - a^(K+1)) / (1 - a) of Leviathan et al. 2023
    (arXiv 2211.17192).
    """
    tokens, whole = 1.0, 1.0
    for chance in chances:
        whole *= chance
        tokens += whole
    return tokens


def unhidden_wait_s(draft_s: float, verify_s: float, hit_rate: float) -> float:
    """Return the expected wait for a draft that runs ahead while the target verifies.

    `draft_s` holds the trip and all draft steps, `verify_s` the verification with its own trip and overhead. Where
    the draft guessed how verification ends (`hit_rate`, 0 for a draft that does not run ahead) it waits only for what
    is longer than the verification, else for the whole draft (SSD, arXiv 2603.03251).
    """
    return hit_rate * max(draft_s - verify_s, 0.0) + (1 - hit_rate) * draft_s


def predict(
    acceptance: Acceptance, length: int, costs: StepCosts, draft_costs: DraftCosts, overhead_s: float, rows: int = 1
) -> Prediction | None:
    """Return what drafting `length` tokens for each of `rows` alike should give; None before any step was measured."""
    pass_s, plain_pass_s = costs.predict(rows * (1 + length)), costs.predict(rows)
    if pass_s is None or plain_pass_s is None:
        return None
    tokens = 1 + draft_costs.arrival_chance(length) * sum(acceptance.prefix_chances(length))
    return Prediction(rows, tokens, pass_s + overhead_s + draft_costs.predict(length), plain_pass_s + overhead_s)
