"""The choice of draft lengths against brute force, and its limits."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.limits import MAX_DRAFT_TOKENS
from gateway.speculation.acceptance import Acceptance
from gateway.speculation.draft_length import Row, choose_lengths
from gateway.speculation.step_costs import DraftCosts, StepCosts

OVERHEAD_S = 0.001


def acceptance(percents: list[int]) -> Acceptance:
    """An acceptance that has learned about these chances, one position after the other."""
    learned = Acceptance()
    for _ in range(4):
        for position, percent in enumerate(percents):
            for trial in range(10):
                learned.record(position + 1, position + (trial * 10 < percent))
    return learned


def measured(growth: list[float]) -> StepCosts:
    """Costs of 1 to 12 tokens, measured each, that grow by these factors."""
    costs, duration_s = StepCosts(), 0.01
    for tokens, factor in enumerate(growth, start=1):
        duration_s *= factor
        for _ in range(4):
            costs.observe(tokens, duration_s)
    return costs


def waits(costs: StepCosts, per_token_s: float, first_s: float = 0.0) -> DraftCosts:
    draft_costs = DraftCosts(costs)
    for count in range(1, 9):
        draft_costs.observe(count, first_s + per_token_s * count, True)
    return draft_costs


def goodput(rows: list[Row], lengths: tuple[int, ...], costs: StepCosts, draft_costs: DraftCosts) -> float:
    tokens = sum(1 + sum(row.acceptance.prefix_chances(length)) for row, length in zip(rows, lengths, strict=True))
    longest = max((length for row, length in zip(rows, lengths, strict=True) if row.waits), default=0)
    step_s = costs.predict(len(rows) + sum(lengths))
    assert step_s is not None
    return tokens / (step_s + OVERHEAD_S + draft_costs.predict(longest))


PERCENTS = st.lists(st.sampled_from(range(10, 101, 10)), min_size=1, max_size=3)
ROWS = st.lists(
    st.builds(
        lambda percents, cap, waits: Row(acceptance(percents), cap, waits), PERCENTS, st.integers(0, 3), st.booleans()
    ),
    min_size=1,
    max_size=3,
)
GROWTH = st.lists(st.floats(1.0, 1.4), min_size=12, max_size=12)


@settings(max_examples=60, deadline=None)
@given(ROWS, GROWTH, st.sampled_from([0.0, 0.001, 0.004]), st.sampled_from([0.0, 0.003]))
def test_no_other_lengths_have_a_better_goodput(
    rows: list[Row], growth: list[float], per_token_s: float, first_s: float
) -> None:
    """Steps grow in any way, waits are shared, some rows wait for nothing: every combination is tried."""
    costs = measured(growth)
    draft_costs = waits(costs, per_token_s, first_s)
    chosen = choose_lengths(rows, costs, draft_costs, OVERHEAD_S, OVERHEAD_S, 3)
    best = max(goodput(rows, each, costs, draft_costs) for each in product(*(range(row.cap + 1) for row in rows)))
    assert goodput(rows, tuple(chosen), costs, draft_costs) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(ROWS, GROWTH, st.integers(0, 9))
def test_every_bound_is_kept(rows: list[Row], growth: list[float], most: int) -> None:
    costs = measured(growth)
    lengths = choose_lengths(rows, costs, DraftCosts(costs), OVERHEAD_S, OVERHEAD_S, most)
    assert all(0 <= length <= min(row.cap, most) for row, length in zip(rows, lengths, strict=True))


def chosen_alone(percents: list[int], growth: float, wait_s: float = 0.0, drafting: bool | None = None) -> int:
    costs = measured([growth] * 12)
    row = Row(acceptance(percents), MAX_DRAFT_TOKENS, True, drafting)
    return choose_lengths([row], costs, waits(costs, wait_s), OVERHEAD_S, OVERHEAD_S, MAX_DRAFT_TOKENS)[0]


def test_better_drafts_are_longer_and_dearer_steps_or_waits_make_them_shorter() -> None:
    by_chance = [chosen_alone([percent], 1.1) for percent in range(0, 101, 10)]
    by_step = [chosen_alone([80], 1 + growth / 20) for growth in range(16)]
    by_wait = [chosen_alone([80], 1.05, wait_ms / 1000) for wait_ms in range(12)]
    assert by_chance == sorted(by_chance) and by_chance[0] == 0 and by_chance[-1] == MAX_DRAFT_TOKENS
    assert by_step == sorted(by_step, reverse=True) and by_step[-1] <= 1 < by_step[0]
    assert by_wait == sorted(by_wait, reverse=True) and by_wait[-1] == 0 < by_wait[0]


def test_the_better_draft_gets_the_tokens() -> None:
    costs = measured([1.12] * 12)
    good, bad = Row(acceptance([90]), 8, False), Row(acceptance([20]), 8, False)
    lengths = choose_lengths([bad, good], costs, DraftCosts(costs), OVERHEAD_S, OVERHEAD_S, 8)
    assert lengths[0] == 0 < lengths[1]


def test_a_wait_that_one_row_pays_for_is_free_for_the_others_and_ngrams_never_wait() -> None:
    costs = measured([1.0] * 12)
    draft_costs = waits(costs, 0.0, first_s=0.009)
    poor = Row(acceptance([40, 10]), 8, True)
    assert choose_lengths([poor], costs, draft_costs, OVERHEAD_S, OVERHEAD_S, 8) == [0]
    assert choose_lengths([Row(poor.acceptance, 8, False)], costs, draft_costs, OVERHEAD_S, OVERHEAD_S, 1) == [1]
    with_others = choose_lengths(
        [poor] + [Row(acceptance([100]), 8, True)] * 2, costs, draft_costs, OVERHEAD_S, OVERHEAD_S, 3
    )
    assert min(with_others) > 0


def test_what_never_arrives_is_not_waited_for() -> None:
    costs = measured([1.0] * 12)
    draft_costs = DraftCosts(costs)
    for count in range(1, 9):
        for _ in range(20):
            draft_costs.observe(count, 0.005, False)
    rows = [Row(acceptance([90]), 8, True), Row(acceptance([90]), 2, False)]
    assert choose_lengths(rows, costs, draft_costs, OVERHEAD_S, OVERHEAD_S, 8) == [0, 2]


def test_nothing_is_drafted_before_a_step_was_measured() -> None:
    costs = StepCosts()
    row = Row(Acceptance(), 8, False)
    assert choose_lengths([row] * 2, costs, DraftCosts(costs), OVERHEAD_S, OVERHEAD_S, 8) == [0, 0]
    assert choose_lengths([], costs, DraftCosts(costs), OVERHEAD_S, OVERHEAD_S, 8) == []


def test_zero_is_left_and_reached_only_for_a_gain() -> None:
    """Around the break-even a row stays where it is; away from it nothing holds it."""
    changes = [growth / 100 for growth in range(100, 190, 2)]
    staying = [chosen_alone([50, 0], growth, drafting=True) for growth in changes]
    starting = [chosen_alone([50, 0], growth, drafting=False) for growth in changes]
    free = [chosen_alone([50, 0], growth) for growth in changes]
    counts = [sum(length > 0 for length in lengths) for lengths in (starting, free, staying)]
    assert 0 < counts[0] < counts[1] < counts[2] < len(changes)
