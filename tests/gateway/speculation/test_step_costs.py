import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.speculation.step_costs import LEAST_DEADLINE_S, DraftCosts, StepCosts

OBSERVED = st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-4, 10.0)), max_size=60)


def observed(*steps: tuple[int, float], times: int = 4) -> StepCosts:
    costs = StepCosts()
    for tokens, duration_s in steps:
        for _ in range(times):
            costs.observe(tokens, duration_s)
    return costs


def waited(steps: StepCosts, *waits: tuple[int, float, bool], times: int = 60) -> DraftCosts:
    costs = DraftCosts(steps)
    for count, waited_s, arrived in waits:
        for _ in range(times):
            costs.observe(count, waited_s, arrived)
    return costs


@given(OBSERVED)
def test_more_tokens_never_take_less(steps: list[tuple[int, float]]) -> None:
    costs = observed(*steps, times=1)
    predicted = [costs.predict(tokens) for tokens in (*range(1, 140), 512, 4096, 10_000)]
    known = [duration_s for duration_s in predicted if duration_s is not None]
    assert len(known) in (0, len(predicted))
    assert all(0 < less <= more * (1 + 1e-9) for less, more in pairwise(known))


@given(OBSERVED, st.integers(1, 300), st.integers(1, 140))
def test_many_sizes_at_once_are_predicted_as_each_by_itself(
    steps: list[tuple[int, float]], first: int, count: int
) -> None:
    costs = observed(*steps)
    predicted = [costs.predict(tokens) for tokens in range(first, first + count)]
    at_once = costs.predict_each(first, count)
    assert set(predicted) == {None} if at_once is None else at_once == pytest.approx(predicted)


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0, 1.0), st.booleans()), max_size=60))
def test_waits_and_deadlines_stay_in_their_bounds(waits: list[tuple[int, float, bool]]) -> None:
    costs = waited(observed((1, 0.01)), *waits, times=1)
    predicted = [costs.predict(count) for count in range(9)]
    assert predicted[0] == 0 and all(less <= more * (1 + 1e-9) for less, more in pairwise(predicted))
    assert all(LEAST_DEADLINE_S <= costs.deadline_s(count) <= 0.01 + 0.005 * count + 1e-12 for count in range(1, 9))
    arrivals = [costs.arrival_chance(count) for count in range(9)]
    assert arrivals == sorted(arrivals, reverse=True) and arrivals[-1] >= 0 and arrivals[0] == 1


def test_nothing_is_said_before_a_size_was_seen_often_enough() -> None:
    costs = observed((1, 0.01), times=3)
    assert costs.predict(1) is None
    costs.observe(1, 0.01)
    assert costs.predict(1) == pytest.approx(0.01)


def test_one_known_size_assumes_eight_percent_of_a_token() -> None:
    assert observed((1, 0.01)).predict(5) == pytest.approx(0.0132)
    costs = observed((16, 0.022))
    assert costs.predict(1) == pytest.approx(0.01) and costs.predict(17) == pytest.approx(0.0228)


def test_between_known_sizes_is_a_line_and_beyond_goes_its_slope() -> None:
    costs = observed((1, 0.010), (5, 0.018))
    assert costs.predict(3) == pytest.approx(0.014) and costs.predict(7) == pytest.approx(0.022)


def test_free_tokens_are_not_believed_to_stay_free() -> None:
    """Flat as far as measured: beyond, a quarter of what would be assumed."""
    flat = observed((1, 0.01), (8, 0.01))
    assert flat.predict(8) == pytest.approx(0.01) and (flat.predict(60) or 0) > 0.015


def test_sizes_within_a_bucket_are_not_mistaken_for_its_limit() -> None:
    costs = observed((16, 0.016), (17, 0.017), times=60)
    assert costs.predict(17) == pytest.approx(0.017) and (costs.predict(24) or 0) > 0.017


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_outliers_are_survived(seed: int) -> None:
    dice, costs = random.Random(seed), StepCosts()
    for _ in range(1500):
        tokens = dice.choice((1, 2, 4, 6, 9))
        outlier = 30.0 if dice.random() < 0.02 else 1.0
        costs.observe(tokens, 0.01 * (1 + 0.1 * tokens) * dice.uniform(0.85, 1.15) * outlier)
    for tokens in (1, 2, 3, 4, 6, 9):
        assert costs.predict(tokens) == pytest.approx(0.01 * (1 + 0.1 * tokens), rel=0.12)


def test_an_unlucky_first_observation_closes_no_size() -> None:
    costs = observed((1, 0.010), (4, 0.013))
    for _ in range(3):
        costs.observe(8, 1.0)
    assert (costs.predict(8) or 1) < 0.02
    costs.observe(8, 1.0)
    assert (costs.predict(8) or 0) > 0.5


def test_what_is_not_observed_moves_with_what_is() -> None:
    costs = observed((1, 0.010), (4, 0.013), times=10)
    for _ in range(400):
        costs.observe(4, 0.026)
    assert 0.0115 < (costs.predict(1) or 0) < 0.021
    for _ in range(400):
        costs.observe(4, 0.013)
    assert costs.predict(1) == pytest.approx(0.010, rel=0.15)


def test_alternating_sizes_do_not_move_each_other() -> None:
    costs = StepCosts()
    for _ in range(300):
        costs.observe(1, 0.010)
        costs.observe(8, 0.030)
    assert costs.predict(1) == pytest.approx(0.010, rel=0.01) and costs.predict(8) == pytest.approx(0.030, rel=0.01)


def test_a_wait_costs_nothing_until_it_was_seen() -> None:
    costs = DraftCosts(observed((1, 0.01)))
    assert [costs.predict(count) for count in (0, 1, 8)] == [0, 0, 0] and costs.arrival_chance(8) == 1
    costs.observe(4, 0.003, True)
    assert costs.predict(4) == pytest.approx(0.003) and costs.predict(8) > 0.003 > costs.predict(1) > 0


def test_half_a_step_is_waited_at_first_and_then_twice_the_usual() -> None:
    steps = observed((1, 0.010), times=100)
    assert DraftCosts(steps).deadline_s(3) == pytest.approx(0.005)
    assert waited(steps, (3, 0.002, True), times=200).deadline_s(3) == pytest.approx(0.004, rel=0.05)
    assert waited(steps, (3, 0.0, True), times=200).deadline_s(3) == LEAST_DEADLINE_S
    assert waited(steps, (3, 0.014, False)).deadline_s(3) == pytest.approx(0.025)
    assert waited(steps, (8, 0.040, True)).deadline_s(8) == pytest.approx(0.050)
    assert DraftCosts(StepCosts()).deadline_s(3) == LEAST_DEADLINE_S


def test_the_deadline_covers_waits_that_are_hidden_two_times_of_three() -> None:
    costs, dice = DraftCosts(observed((1, 0.010), times=100)), random.Random(1)
    for _ in range(300):
        costs.observe(4, dice.choice((0.0, 0.0, 0.006)), True)
        assert costs.deadline_s(4) < 0.0300001
    assert costs.deadline_s(4) > 0.006 and costs.predict(4) < 0.004


def test_a_late_draft_is_asked_for_longer_until_the_bound() -> None:
    costs = DraftCosts(observed((1, 0.010), times=100))
    for _ in range(40):
        deadline_s = costs.deadline_s(2)
        costs.observe(2, min(deadline_s, 0.009), deadline_s >= 0.009)
    assert costs.deadline_s(2) >= 0.009 and costs.arrival_chance(2) > 0.9


def test_a_length_that_never_arrives_says_nothing_against_shorter_ones_and_is_forgiven() -> None:
    costs = waited(observed((1, 0.01)), (6, 0.015, False), times=20)
    assert costs.arrival_chance(5) == 1 and costs.arrival_chance(8) < 0.15
    for _ in range(100):
        costs.observe(3, 0.002, True)
    assert costs.arrival_chance(8) > 0.5
