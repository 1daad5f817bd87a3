import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import MAX_DRAFT_TOKENS
from gateway.speculation.acceptance import Acceptance

ROUNDS = st.lists(
    st.integers(0, MAX_DRAFT_TOKENS).flatmap(lambda drafted: st.tuples(st.just(drafted), st.integers(0, drafted)))
)


def taught(acceptance: Acceptance, chances: list[float], rounds: int, drafted: int, seed: int = 0) -> Acceptance:
    dice = random.Random(seed)
    for _ in range(rounds):
        accepted = 0
        while accepted < drafted and dice.random() < chances[accepted]:
            accepted += 1
        acceptance.record(drafted, accepted)
    return acceptance


@given(ROUNDS, ROUNDS)
def test_chances_are_chances_and_whole_prefixes_ever_less_likely(
    before: list[tuple[int, int]], rounds: list[tuple[int, int]]
) -> None:
    prior = Acceptance()
    for drafted, accepted in before:
        prior.record(drafted, accepted)
    acceptance = Acceptance(prior)
    for drafted, accepted in rounds:
        acceptance.record(drafted, accepted)
    assert all(0.01 <= acceptance.chance(position) <= 0.99 for position in range(MAX_DRAFT_TOKENS))
    prefixes = acceptance.prefix_chances(MAX_DRAFT_TOKENS)
    assert prefixes == sorted(set(prefixes), reverse=True) and len(prefixes) == MAX_DRAFT_TOKENS


@given(ROUNDS)
def test_the_counts_add_up(rounds: list[tuple[int, int]]) -> None:
    acceptance = Acceptance()
    for drafted, accepted in rounds:
        acceptance.record(drafted, accepted)
    assert acceptance.rounds == sum(drafted > 0 for drafted, _ in rounds)
    assert acceptance.drafted == sum(drafted for drafted, _ in rounds)
    assert acceptance.accepted == sum(acceptance.accepted_at) == sum(accepted for _, accepted in rounds)


def test_each_position_is_learned_for_itself() -> None:
    truth = [0.54, 0.5, 0.48, 0.9]
    acceptance = taught(Acceptance(), truth, 4000, 4)
    assert [acceptance.chance(position) for position in range(4)] == pytest.approx(truth, abs=0.12)


def test_an_unknown_position_falls_back_to_the_one_before() -> None:
    acceptance = taught(Acceptance(), [0.3], 200, 1)
    assert acceptance.chance(5) == acceptance.chance(1) == acceptance.chance(0) < 0.5


def test_what_the_prior_knows_of_later_positions_scales_the_fallback() -> None:
    prior = taught(Acceptance(), [0.8, 0.4], 2000, 2)
    acceptance = Acceptance(prior)
    assert acceptance.chance(0) == prior.chance(0) and acceptance.chance(1) == pytest.approx(prior.chance(1))
    taught(acceptance, [0.4], 100, 1)
    assert acceptance.chance(1) == pytest.approx(acceptance.chance(0) * prior.chance(1) / prior.chance(0))
    assert acceptance.chance(1) < 0.4


def test_a_new_request_starts_from_what_its_predecessors_were_like() -> None:
    prior = Acceptance()
    assert Acceptance(prior).chance(0) == Acceptance().chance(0)
    for seed in range(5):
        taught(Acceptance(prior), [0.15] * 8, 60, 3, seed)
    assert prior.rounds == 300 and Acceptance(prior).chance(0) == pytest.approx(0.15, abs=0.07)


def test_one_request_outgrows_the_prior_and_follows_a_change() -> None:
    prior = taught(Acceptance(), [0.1], 500, 1)
    acceptance = taught(Acceptance(prior), [0.95], 60, 1)
    assert acceptance.chance(0) > 0.8
    assert taught(acceptance, [0.1], 60, 1).chance(0) < 0.3


def test_rounds_without_a_draft_teach_nothing() -> None:
    acceptance = Acceptance()
    before = acceptance.prefix_chances(8)
    acceptance.record(0, 0)
    assert acceptance.prefix_chances(8) == before and acceptance.rounds == 0
