"""Draft lengths from step to step, on a simulated target and draft."""

from collections.abc import Callable
from statistics import mean

import pytest

from gateway.speculation.acceptance import Acceptance
from gateway.speculation.length_control import PROBE_STEPS, STRETCH_STEPS, DraftLength, LengthControl
from gateway.speculation.step_costs import DraftCosts, StepCosts
from gateway.speculation.turn_overhead import TurnOverhead
from tests.gateway.speculation.simulation import Machine, Request, run


def memory_bound_s(tokens: int) -> float:
    return 0.010 * (1 + 0.03 * (tokens - 1))


def cpu_s(tokens: int) -> float:
    return 0.008 * (1 + 0.12 * (tokens - 1))


def stairs_s(tokens: int) -> float:
    return 0.010 * (1 + 0.4 * ((tokens - 1) // 4) + 0.02 * tokens)


def compute_bound_s(tokens: int) -> float:
    return 0.002 + 0.001 * max(tokens, 4)


def unhidden_s(count: int) -> float:
    return 0.001 + 0.0007 * count if count else 0.0


@pytest.mark.parametrize("step_s", [memory_bound_s, cpu_s, stairs_s])
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.7, 0.8])
def test_one_request_comes_within_5_percent_of_the_best_fixed_length_in_100_steps(
    step_s: Callable[[int], float], hidden: bool, chance: float
) -> None:
    shares = []
    for seed in range(20):
        machine = Machine(step_s, (lambda count: 0.0) if hidden else unhidden_s, seed)
        request = Request([chance] * 8, Acceptance())
        run(machine, [request], 100)
        shares.append(run(machine, [request], 200).goodput / machine.best_goodput(request.chances))
    assert mean(shares) >= 0.95


def test_long_drafts_are_waited_for_where_they_pay() -> None:
    """A draft on the target's own cores, at 0.4 of its time a token: five or six tokens are worth two steps' wait."""
    shares = []
    for seed in range(6):
        machine = Machine(lambda tokens: 0.011 + 0.0011 * tokens, lambda count: 0.004 + 0.0045 * count, seed)
        request = Request([0.95] * 8, Acceptance())
        run(machine, [request], 100)
        shares.append(run(machine, [request], 200).goodput / machine.best_goodput(request.chances))
    assert mean(shares) >= 0.95


def test_falling_chances_are_followed() -> None:
    """EAGLE's measured whole prefixes .54/.27/.13/.06 (research): conditional chances of about a half."""
    machine = Machine(memory_bound_s, seed=3)
    request = Request([0.54, 0.5, 0.48, 0.46, 0.2, 0.2, 0.2, 0.2], Acceptance())
    run(machine, [request], 100)
    assert run(machine, [request], 300).goodput >= 0.95 * machine.best_goodput(request.chances)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_sixteen_rows_on_a_compute_bound_machine_hardly_draft(waits: bool, seed: int) -> None:
    machine, prior = Machine(compute_bound_s, unhidden_s, seed), Acceptance()
    requests = [Request([0.6] * 8, prior, waits=waits) for _ in range(16)]
    start = run(machine, requests, 100)
    later = run(machine, requests, 500)
    assert later.goodput >= 0.97 * machine.goodput([0.6], 0, 16)
    assert start.goodput >= 0.9 * machine.goodput([0.6], 0, 16)
    assert mean(map(sum, later.lengths)) / 16 < 0.125  # noise lets a row or two believe in a gain for a while


def test_a_dead_draft_costs_little() -> None:
    machine = Machine(memory_bound_s, lambda count: 10.0)
    request = Request([0.9] * 8, Acceptance())
    run(machine, [request], 100)
    assert run(machine, [request], 600).goodput >= 0.97 * machine.goodput([], 0)


def test_a_draft_that_became_bad_is_left_and_found_again_when_it_is_good() -> None:
    machine, request = Machine(cpu_s), Request([0.8] * 8, Acceptance())
    assert run(machine, [request], 100).lengths[-1][0] >= 3
    request.chances = [0.02] * 8
    assert mean(lengths[0] for lengths in run(machine, [request], 150).lengths[50:]) < 0.3
    request.chances = [0.9] * 8
    assert run(machine, [request], 300).lengths[-1][0] >= 3


def test_a_draft_that_came_back_is_found_again() -> None:
    machine, request = Machine(memory_bound_s, lambda count: 10.0), Request([0.9] * 8, Acceptance())
    run(machine, [request], 200)
    machine.wait_s = lambda count: 0.0
    assert run(machine, [request], 1500).lengths[-1][0] >= 3


@pytest.mark.parametrize(("rows", "rounds"), [(3, PROBE_STEPS), (16, 16 * PROBE_STEPS)])
def test_requests_at_zero_probe_one_at_a_time_and_all_of_them(rows: int, rounds: int) -> None:
    machine, prior = Machine(lambda tokens: 0.010 + 0.0007 * tokens, noise=0.0, outliers=0.0), Acceptance()
    requests = [Request([0.0] * 8, prior, waits=False) for _ in range(rows)]
    run(machine, requests, 200 * rows)
    probes = run(machine, requests, 4 * rounds).lengths
    assert {sum(lengths) for lengths in probes} == {0, 1}
    counts = [sum(lengths[index] for lengths in probes) for index in range(rows)]
    assert min(counts) >= 2 and max(counts) <= 5


@pytest.mark.parametrize("waits", [True, False])
def test_a_batch_at_rest_hardly_probes(waits: bool) -> None:
    """However good the drafts are: a probe that succeeds is no reason for another, where so many never draft."""
    machine, prior = Machine(compute_bound_s, lambda count: 0.003), Acceptance()
    machine.overhead.drafting_s = 0.05
    requests = [Request([0.9] * 8, prior, waits=waits) for _ in range(16)]
    run(machine, requests, 600)
    assert sum(map(sum, run(machine, requests, 4 * PROBE_STEPS).lengths)) <= 4


def test_a_batch_drafts_only_what_beats_a_batch_at_rest() -> None:
    """Drafts that would pay, but for what a turn of a batch at rest is shorter by."""
    machine, prior = Machine(lambda tokens: 0.008 + 0.001 * tokens), Acceptance()
    requests = [Request([0.95] * 8, prior, waits=False) for _ in range(8)]
    assert all(map(sum, run(machine, requests, 300).lengths[-50:])), "they pay where rest costs the same"
    machine.overhead.drafting_s, machine.overhead.resting_s = 0.05, 0.0
    lengths = run(machine, requests, 300).lengths[-100:]
    assert sum(map(sum, lengths)) <= len(lengths) / PROBE_STEPS and machine.control.is_resting


def test_in_a_batch_nobody_pays_for_what_others_draft() -> None:
    machine, prior = Machine(lambda tokens: 0.008 + 0.001 * tokens), Acceptance()
    good = [Request([0.95] * 8, Acceptance(prior), waits=False) for _ in range(7)]
    assert min(run(machine, good, 300).lengths[-1]) > 0, "all gain"
    none = Request([], Acceptance(), most=0)
    assert max(map(sum, run(machine, [*good, none], 300).lengths[-100:])) <= 3
    assert max(run(machine, [*good[:2], none], 300).lengths[-1]) > 0, "where rows cost little next to the step itself"


def test_requests_too_short_to_probe_by_themselves_probe_all_the_same() -> None:
    machine, prior = Machine(lambda tokens: 0.002 * tokens), Acceptance()
    lengths = [run(machine, [Request([0.0] * 8, prior, waits=False)], 20).lengths for _ in range(60)]
    drafted = sum(each[0] for of_request in lengths[10:] for each in of_request)
    assert 10 <= drafted <= 50 * 20 / PROBE_STEPS


def test_whoever_only_probes_is_not_chosen_until_then() -> None:
    acceptance, costs = Acceptance(), StepCosts()
    for _ in range(4):
        costs.observe(1, 0.010)
    control, draft = LengthControl(costs, DraftCosts(costs)), DraftLength()
    rows = [draft.row(acceptance, 8, True, probes_only=True) for _ in range(PROBE_STEPS + 2)]
    told, lengths = [], []
    for row in rows:
        lengths += control.next_lengths([draft], [row], TurnOverhead())
        told.append(draft.tells)
    assert lengths == [0] * PROBE_STEPS + [0, 1]
    assert told == [False] * PROBE_STEPS + [True, False], "the worker reads what it missed before it is asked"
    assert control.next_lengths([draft], [draft.row(acceptance, 8, True)], TurnOverhead()) == [2], "as it pays by far"


def test_a_row_that_ran_ahead_probes_a_turn_later() -> None:
    acceptance, draft = Acceptance(), DraftLength()
    for _ in range(PROBE_STEPS):
        draft.settle(draft.row(acceptance, 8, False), 0, 0)
    ahead, row = draft.row(acceptance, 8, False, ran_ahead=True), draft.row(acceptance, 8, False)
    assert draft.steps_overdue() == 1
    assert draft.settle(ahead, 0, 1) == 1, "it wants to, so that it does not run ahead again"
    assert not draft.is_probing and draft.steps_overdue() == 1
    assert draft.settle(row, 0, 1) == 1 and draft.is_probing and draft.steps_overdue() == 0


@pytest.mark.parametrize("waits", [True, False])
def test_a_worker_s_accepted_probes_grow(waits: bool) -> None:
    acceptance, draft = Acceptance(), DraftLength()
    row, tried = draft.row(acceptance, 8, waits), []
    for accepted in (1, 2, 1, 3, 0, 1):
        length = draft.probe_length(row, 4)
        tried.append(draft.settle(row, 0, length))
        acceptance.record(length, min(accepted, length))
    assert tried == ([1, 2, 3, 3, 4, 1] if waits else [1] * 6)


def test_a_worker_drafts_one_more_now_and_then() -> None:
    """Wherever two tokens are wrongly thought best: what three take was never measured."""
    acceptance, draft = Acceptance(), DraftLength()
    row = draft.row(acceptance, 8, True)
    lengths = []
    for _ in range(2 * STRETCH_STEPS):
        draft.settle(row, 2, 0)
        lengths.append(draft.stretched(row, 2, 8))
    assert lengths == ([2] * (STRETCH_STEPS - 1) + [3]) * 2
    assert draft.stretched(row, 2, 2) == 2


def test_where_several_are_served_nobody_drafts_while_one_waits_for_its_prompt() -> None:
    machine, request = Machine(memory_bound_s), Request([0.95] * 8, Acceptance(), waits=False)
    run(machine, [request], 300)
    for others, drafts in ((2, True), (3, False)):
        row = request.draft.row(request.acceptance, 8, False)
        [length] = machine.control.next_lengths([request.draft], [row], machine.overhead, others)
        assert (length > 0) == drafts


def test_a_batch_at_rest_is_looked_at_now_and_then() -> None:
    machine, prior = Machine(compute_bound_s), Acceptance()
    requests = [Request([0.1] * 8, prior, waits=False) for _ in range(8)]
    run(machine, requests, 300)
    looks = []
    for _ in range(20):
        looks.append(not machine.control.rests_on(8))
        if looks[-1]:
            run(machine, requests, 1)
    assert sum(looks) == 4
    assert not machine.control.rests_on(3), "a small batch is looked at in every turn"


def test_an_override_of_0_never_drafts_and_never_probes() -> None:
    machine, prior = Machine(memory_bound_s), Acceptance()
    never, bounded, free = (Request([0.9] * 8, prior, most) for most in (0, 2, None))
    lengths = run(machine, [never, bounded, free], 300).lengths
    assert {each[0] for each in lengths} == {0} and never.acceptance.rounds == 0
    assert max(each[1] for each in lengths) == 2 < max(each[2] for each in lengths)


def test_steps_without_anything_to_draft_from_change_nothing() -> None:
    draft, acceptance = DraftLength(), Acceptance()
    draft.settle(draft.row(acceptance, 5, False), 3, False)
    for _ in range(2 * PROBE_STEPS):
        assert draft.settle(draft.row(acceptance, 0, False), 0, False) == 0
    assert draft.steps_overdue() == 0 and draft.row(acceptance, 5, False).drafting


def test_each_length_is_tried_before_a_longer_one() -> None:
    lengths = [each[0] for each in run(Machine(memory_bound_s), [Request([0.99] * 8, Acceptance())], 40).lengths]
    assert sorted(set(lengths)) == list(range(9))
    assert [lengths.index(length) for length in range(9)] == sorted(lengths.index(length) for length in range(9))


def test_the_same_observations_give_the_same_lengths() -> None:
    def lengths() -> list[list[int]]:
        prior = Acceptance()
        return run(Machine(cpu_s, unhidden_s, 5), [Request([0.7] * 8, prior) for _ in range(3)], 100).lengths

    assert lengths() == lengths()
