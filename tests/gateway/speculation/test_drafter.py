"""Which of a request's two sources drafts: the one that makes more tokens a second; and how both are judged."""

import pytest

from gateway.speculation.acceptance import Acceptance
from gateway.speculation.drafter import SOURCES, Drafter
from gateway.speculation.length_control import LengthControl
from gateway.speculation.record import SpeculationRecord
from gateway.speculation.step_costs import DraftCosts, StepCosts
from gateway.speculation.turn_overhead import TurnOverhead
from tests.support.fake_loop import make_generation

TEXT = [7, 8, 9, 10, 11, 12, 5, 7, 8]  # after 7, 8 came 9, 10, 11, 12


def drafter() -> Drafter:
    job = make_generation(TEXT, 40, max_draft_tokens=8)
    return Drafter.of(job, SpeculationRecord(), {source: Acceptance() for source in SOURCES})


def control(wait_s: float) -> LengthControl:
    """Where a step of one token takes 10 ms, each token more 0.5 ms, and a worker this long."""
    steps = StepCosts()
    for tokens in (1, 2, 4, 8) * 4:
        steps.observe(tokens, 0.0095 + 0.0005 * tokens)
    waits = DraftCosts(steps)
    for count in (1, 2, 4, 8) * 4:
        waits.observe(count, wait_s * count, True)
    return LengthControl(steps, waits)


def learned(chance: float) -> Acceptance:
    acceptance = Acceptance()
    for place in range(20):
        acceptance.record(8, 8 if place < 20 * chance else 0)
    return acceptance


@pytest.mark.parametrize(("has_worker", "of_text", "of_worker"), [(True, 2, 1), (True, 1, 2), (False, 1, 2)])
def test_the_better_one_drafts(has_worker: bool, of_text: int, of_worker: int) -> None:
    one = drafter()
    row = one.row(has_worker, True, False, lambda acceptance, cap, waits: of_worker if waits else of_text)
    takes_text = not has_worker or of_text > of_worker
    assert (one.asked_source == "short match", row.waits, row.cap) == (takes_text, not takes_text, 8)


@pytest.mark.parametrize(("wait_s", "text_is_better"), [(0.004, True), (0.0001, False)])
def test_a_wait_decides_between_a_rare_guess_and_a_sure_one(wait_s: float, text_is_better: bool) -> None:
    of = control(wait_s)
    text, worker = (
        of.goodput(learned(chance), 8, waits, 1, TurnOverhead()) for chance, waits in ((0.5, False), (0.95, True))
    )
    assert (text > worker) == text_is_better
    assert LengthControl(StepCosts(), DraftCosts(StepCosts())).goodput(learned(0.5), 8, True, 1, TurnOverhead()) == 0


@pytest.mark.parametrize(
    ("drawn", "drafted", "accepted"), [([9, 10, 11], 3, 3), ([9, 10, 3], 3, 2), ([3], 1, 0), ([9, 10, 11, 12, 1], 5, 4)]
)
def test_a_worker_s_pass_tells_what_the_text_s_guess_was_worth(drawn: list[int], drafted: int, accepted: int) -> None:
    one = drafter()
    one.row(True, True, False, lambda acceptance, cap, waits: float(waits))
    one.compare(drawn)
    text = one.acceptance["short match"]
    assert (text.rounds, text.drafted, text.accepted) == (1, drafted, accepted)
    assert one.acceptance["worker"].rounds == 0


def test_a_pass_that_verified_the_text_s_own_guess_is_not_counted_twice() -> None:
    one = drafter()
    one.row(False, True, False, lambda acceptance, cap, waits: 0.0)
    one.source = "short match"
    one.compare([9])
    assert one.acceptance["short match"].rounds == 0
