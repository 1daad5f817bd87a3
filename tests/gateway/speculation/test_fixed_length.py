"""`draft_length: fixed`, the setting for measuring: as many tokens as the bounds allow, whether they pay or not."""

import pytest

from gateway.speculation.acceptance import Acceptance
from gateway.speculation.length_control import DraftLength, LengthControl
from gateway.speculation.step_costs import DraftCosts, StepCosts
from gateway.speculation.turn_overhead import TurnOverhead


def hopeless() -> Acceptance:
    """Return what was learned of drafts of which no token was ever accepted."""
    acceptance = Acceptance()
    for _ in range(50):
        acceptance.record(8, 0)
    return acceptance


def next_lengths(fixed: bool, steps_measured: int, wanted: list[int | None], most: int = 8) -> list[int]:
    """Return the lengths of rows whose requests bound them by `wanted`; each token costs a whole step."""
    costs = StepCosts()
    for _ in range(steps_measured):
        for tokens in range(1, 30):
            costs.observe(tokens, 0.01 * tokens)
    control = LengthControl(costs, DraftCosts(costs), most, fixed)
    drafts = [DraftLength(bound) for bound in wanted]
    rows = [draft.row(hopeless(), cap, waits=True) for draft, cap in zip(drafts, (8, 8, 2), strict=True)]
    return control.next_lengths(drafts, rows, TurnOverhead())


@pytest.mark.parametrize(("fixed", "lengths"), [(True, [8, 3, 2]), (False, [0, 0, 0])])
def test_fixed_drafts_what_does_not_pay(fixed: bool, lengths: list[int]) -> None:
    assert next_lengths(fixed, 10, [None, 3, 5]) == lengths


def test_the_deployment_s_bound_holds() -> None:
    assert next_lengths(True, 10, [None, 3, 0], most=4) == [4, 3, 0]
    assert next_lengths(True, 10, [None, 3, 5], most=0) == [0, 0, 0]


def test_from_the_first_step_on() -> None:
    assert next_lengths(True, 0, [None, 3, 5]) == [8, 3, 2]
    assert next_lengths(False, 0, [None, 3, 5]) == [0, 0, 0]
