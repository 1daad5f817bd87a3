import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.speculation.acceptance import Acceptance
from gateway.speculation.prediction import expected_tokens, predict, unhidden_wait_s
from gateway.speculation.step_costs import DraftCosts, StepCosts


@given(st.floats(0.01, 0.99), st.integers(0, 8))
def test_equal_chances_give_the_closed_form(chance: float, length: int) -> None:
    assert expected_tokens([chance] * length) == pytest.approx((1 - chance ** (length + 1)) / (1 - chance))


@pytest.mark.parametrize(("hit_rate", "speed_up"), [(0.0, 1.72), (0.24, 1.91), (0.7, 2.41), (0.9, 2.72)])
def test_a_worked_example(hit_rate: float, speed_up: float) -> None:
    """70B int4 at TP 8, 11 ms and 11.6 ms for 5 rows, a 1B draft of 2 ms, 75 % accepted, K = 4; trips of 0.5 ms."""
    overhead_ms, verify_ms, draft_ms = 0.5 + 0.3, 11.6 + 0.8, 0.5 + 4 * 2.0
    pass_ms = verify_ms + unhidden_wait_s(draft_ms, verify_ms, hit_rate)
    assert expected_tokens([0.75] * 4) * (11.0 + overhead_ms) / pass_ms == pytest.approx(speed_up, abs=0.005)


def test_a_long_draft_is_hidden_in_part() -> None:
    assert unhidden_wait_s(5.0, 3.0, 1.0) == 2.0 and unhidden_wait_s(5.0, 3.0, 0.5) == 3.5


def test_a_prediction_is_made_of_what_was_measured() -> None:
    costs, acceptance = StepCosts(), Acceptance()
    draft_costs = DraftCosts(costs)
    assert predict(acceptance, 3, costs, draft_costs, 0.001) is None
    for _ in range(10):
        costs.observe(2, 0.010)
        costs.observe(8, 0.016)
        draft_costs.observe(3, 0.002, True)
    prediction = predict(acceptance, 3, costs, draft_costs, 0.001, rows=2)
    assert prediction is not None
    assert prediction.tokens_per_pass == pytest.approx(1 + 0.7 + 0.49 + 0.343)
    assert prediction.pass_s == pytest.approx(0.019)
    assert prediction.tokens_per_s == pytest.approx(2 * 2.533 / 0.019)
    assert prediction.speed_up == pytest.approx(2.533 * 0.011 / 0.019)
    plain = predict(acceptance, 0, costs, draft_costs, 0.001, rows=2)
    assert plain is not None and plain.speed_up == 1 and plain.tokens_per_s == pytest.approx(2 / 0.011)
