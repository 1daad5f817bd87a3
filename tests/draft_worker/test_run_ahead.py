"""Run-ahead: what is ready when the verdict comes, what it costs others, and that nothing is left behind."""

import random
from unittest import mock

import numpy as np
import pytest

from draft_worker.branching import likely_mismatches
from draft_worker.model_proposer import ModelProposer
from draft_worker.proposer import Token
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.drafting import Driver, commit, draft_settings, ids_of, open_
from tests.support.tiny_model import TinyModel

PROMPT = random.Random(3).choices(range(256), k=41)
SAMPLED = pb.Sampling(temperature=1.0, seed=12)


def first_proposal(driver: Driver, request: int = 1, count: int = 4) -> pb.Proposal:
    driver.tell([open_(request, PROMPT, SAMPLED)], [commit(request, 1, len(PROMPT), count=count)])
    (proposal,) = driver.finish()
    return proposal


def test_a_mismatch_that_takes_the_runner_up_is_ready_too(tiny_model: TinyModel) -> None:
    driver = Driver(draft_settings(tiny_model.folder, side_lines=4))
    proposal = first_proposal(driver)
    runner_ups = np.frombuffer(proposal.runner_up_ids, "<i4").tolist()
    for place in range(4):
        driver.tell(closes=[pb.Close(request=1, epoch=1)])
        assert ids_of(first_proposal(driver)) == ids_of(proposal)
        driver.idle()
        committed = [*ids_of(proposal)[:place], runner_ups[place]]
        driver.tell(commits=[commit(1, 2, len(PROMPT), committed)])
        (ready,) = driver.work() or []
        assert (ready.num_ready, ready.num_steps) == (4, 0)


def test_one_side_line_begins_where_a_mismatch_is_likeliest(tiny_model: TinyModel) -> None:
    driver = Driver(draft_settings(tiny_model.folder, side_lines=1))
    proposal = first_proposal(driver)
    margins = np.frombuffer(proposal.margins, "<f4").tolist()
    runner_ups = np.frombuffer(proposal.runner_up_ids, "<i4").tolist()
    tokens = [Token(id_, 0.5, m, r) for id_, m, r in zip(ids_of(proposal), margins, runner_ups, strict=True)]
    (place,) = likely_mismatches(tokens, 1)
    driver.idle()
    driver.tell(commits=[commit(1, 2, len(PROMPT), [*ids_of(proposal)[:place], runner_ups[place]])])
    assert driver.finish()[0].num_ready == 4


@pytest.mark.parametrize(
    ("margins", "places"),
    [
        ([5.0, 0.1, 5.0], [1]),
        ([0.1, 0.1, 0.1], [0]),  # the earliest of equal ones
        ([9.0, 2.0, 1.9], [2]),
        ([0.0, 0.0, 9.0, 0.0], [0]),
    ],
)
def test_the_likeliest_first_mismatch(margins: list[float], places: list[int]) -> None:
    tokens = [Token(1, 0.5, margin, 2) for margin in margins]
    assert likely_mismatches(tokens, 1) == places
    assert len(likely_mismatches(tokens, 9)) == len(tokens) and likely_mismatches(tokens, 0) == []
    assert likely_mismatches([Token(1, 0.5, 0.0, -1)], 1) == []  # there is nothing to take instead


def test_an_ask_goes_before_work_ahead(tiny_model: TinyModel) -> None:
    driver = Driver(draft_settings(tiny_model.folder))
    first_proposal(driver)
    driver.tell([open_(2, PROMPT[:8])], [commit(2, 1, 8, count=3)])
    (proposal,) = driver.finish()
    assert (proposal.request, proposal.num_steps) == (2, 3)


def test_work_ahead_ends(tiny_model: TinyModel) -> None:
    driver = Driver(draft_settings(tiny_model.folder, side_lines=2))
    first_proposal(driver)
    steps = 0
    while driver.work() is not None:
        steps += 1
    assert 5 <= steps <= 12
    driver = Driver(draft_settings(tiny_model.folder, run_ahead=False))
    first_proposal(driver)
    assert driver.work() is None


def test_a_step_ahead_continues_few_lines(tiny_model: TinyModel) -> None:
    """The ask that comes next waits for that step."""
    driver = Driver(draft_settings(tiny_model.folder, run_ahead_rows=3))
    for request in range(4):
        first_proposal(driver, request)
    driver.tell(commits=[commit(request, 2, len(PROMPT), count=4) for request in range(4)])
    assert isinstance(driver.proposer, ModelProposer)
    ran = []
    with mock.patch.object(driver.proposer._stepper, "run", wraps=driver.proposer._stepper.run) as run:
        driver.finish()
        driver.idle()
        ran = [len(call.args[0]) for call in run.call_args_list]
    assert max(ran) == 3 and sum(ran) > 20


def test_nothing_is_left_of_closed_requests(tiny_model: TinyModel) -> None:
    """Whatever was drafted, evicted, branched or promoted: in the end every block is free again."""
    chooser = random.Random(5)
    driver = Driver(draft_settings(tiny_model.folder, kv_cache_tokens=400, side_lines=2, max_requests=6))
    lengths = dict[int, int]()
    for turn in range(1, 400):
        request = chooser.randrange(10)
        if request not in lengths or chooser.random() < 0.1:
            driver.tell([open_(request, PROMPT[: 10 + request], SAMPLED, epoch=turn)])
            lengths[request] = 10 + request
        new = chooser.choices(range(256), k=chooser.randrange(4))
        # The epoch is not known here: half of the commits are of an old one, or of a request that was forgotten.
        epoch = next((text.epoch for key, text in driver.desk.texts() if key.request == request), 1)
        base_length = max(1, lengths[request] - chooser.randrange(3))
        driver.tell(commits=[commit(request, turn, base_length, new, count=chooser.randrange(5), epoch=epoch)])
        lengths[request] = base_length + len(new)
        for _ in range(chooser.randrange(6)):
            driver.work()
    assert isinstance(driver.proposer, ModelProposer)
    assert driver.proposer.usage.kv_cache_used_tokens > 0
    driver.desk.end(1)
    assert (driver.proposer.usage.kv_cache_used_tokens, driver.proposer.waiting, len(driver.desk)) == (0, 0, 0)
    assert driver.work() is None


def test_a_deadline_cuts_the_proposal_short(tiny_model: TinyModel) -> None:
    driver = Driver(draft_settings(tiny_model.folder))
    driver.tell([open_(1, PROMPT)], [commit(1, 1, len(PROMPT), count=2)])
    driver.finish()
    driver.tell(commits=[commit(1, 2, len(PROMPT), [1, 2, 3], count=16, deadline_ns=10_000_000_000)])
    assert len(ids_of(driver.finish()[0])) == 16
    step_ns = driver.proposer.usage.step_ns
    driver.tell(commits=[commit(1, 3, len(PROMPT), [7, 7, 7], count=16, deadline_ns=4 * step_ns)])
    (short,) = driver.finish()
    assert len(ids_of(short)) < 16


def test_texts_are_bounded_in_ids_too(tiny_model: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("draft_worker.desk.MAX_TOTAL_IDS", 100)
    driver = Driver(draft_settings(None, proposer="ngram"))
    for request in range(5):
        driver.tell([open_(request, PROMPT)])
    assert len(driver.desk) == 2
    driver.tell(commits=[commit(4, 1, 41, [1] * 80)])
    assert len(driver.desk) == 1
    driver.tell(commits=[commit(4, 2, 121, [1] * 80)])  # the one in use stays, however long
    assert [p.outcome for p in driver.finish()] == [pb.OUTCOME_PROPOSED]
