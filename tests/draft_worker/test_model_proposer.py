"""The draft draws what the target draws, whatever was asked before, and whoever is in the batch."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from draft_worker.calibration_file import Calibration, Measured, Pair, write_calibration
from tandem.draft.v1 import draft_service_pb2 as pb
from tests.support.drafting import GREEDY, Driver, Target, biased, commit, draft_settings, ids_of, open_
from tests.support.tiny_model import TinyModel

PROMPT = random.Random(1).choices(range(256), k=45)
SAMPLINGS = {
    "greedy": GREEDY,
    "sampled": pb.Sampling(temperature=1.0, seed=2**63 + 11),
    "cold": pb.Sampling(temperature=0.7, seed=3),
    "penalised": pb.Sampling(
        temperature=0.9, seed=4, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.4
    ),
    "penalised greedily": pb.Sampling(repetition_penalty=1.5),
    "biased": biased(temperature=1.2, seed=5),
}


@pytest.fixture
def driver(tiny_model: TinyModel) -> Driver:
    return Driver(draft_settings(tiny_model.folder))


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("run_ahead", [True, False])
def test_a_draft_of_the_target_s_own_weights_is_always_right(
    tiny_model: TinyModel, target: Target, name: str, run_ahead: bool
) -> None:
    sampling, count, total = SAMPLINGS[name], 4, 40
    truth = target.draw(PROMPT, sampling, total + count + 1)
    driver = Driver(draft_settings(tiny_model.folder, run_ahead=run_ahead))
    driver.tell([open_(1, PROMPT, sampling)])
    done, new = 0, list[int]()
    for round_ in range(1, 9):
        driver.tell(commits=[commit(1, round_, len(PROMPT) + done - len(new), new, count)])
        (proposal,) = driver.finish()
        assert (proposal.outcome, proposal.base_length) == (pb.OUTCOME_PROPOSED, len(PROMPT) + done)
        assert ids_of(proposal) == truth[done : done + count]
        assert round_ == 1 or proposal.num_ready == (count if run_ahead else 0)
        driver.idle()
        new = truth[done : done + count + 1]  # all accepted, and the target's own next one
        done += len(new)
    assert done == total


@pytest.mark.parametrize("source", ["setting", "file"])
def test_the_draft_temperature_is_the_setting_s_or_the_target_s(
    tmp_path: Path, tiny_model: TinyModel, target: Target, source: str
) -> None:
    """A factor near 0 leaves no room for noise: the draft is the greedy one, at any temperature."""
    folder = shutil.copytree(tiny_model.folder, tmp_path / "draft")
    measured = Measured(temperature=1.0, beta=1e-3, acceptance=0.5, acceptance_at_1=0.4)
    pair = Pair(target_hash="its target", target="tiny", num_tokens=1, measured=(measured,))
    write_calibration(folder, Calibration(pairs=(pair,)))
    sampling = SAMPLINGS["sampled"]
    greedy, sampled = target.draw(PROMPT, GREEDY, 4), target.draw(PROMPT, sampling, 4)
    assert greedy != sampled
    driver = Driver(draft_settings(folder, **({"temperature_factor": 1e-3} if source == "setting" else {})))
    for request, (target_hash, expected) in enumerate([("its target", greedy), ("another", sampled)]):
        driver.tell([open_(request, PROMPT, sampling)], [commit(request, 1, 45)], target_hash=target_hash)
        assert ids_of(driver.finish()[0]) == (greedy if source == "setting" else expected)


def verdict(chooser: random.Random, proposal: pb.Proposal, truth: list[int]) -> list[int]:
    """What a gateway commits: some of the proposal, then what the target drew instead, or something odd."""
    drafted = ids_of(proposal)
    accepted = chooser.randrange(len(drafted) + 1)
    kind = chooser.choice(["runner-up", "runner-up", "random", "truth", "nothing", "long"])
    if kind == "nothing":
        return []
    if kind == "long":
        return [*drafted, *chooser.choices(range(256), k=20)]
    if kind == "runner-up" and accepted < len(drafted):
        return [*drafted[:accepted], int(np.frombuffer(proposal.runner_up_ids, "<i4")[accepted])]
    return [*drafted[:accepted], truth[0] if kind == "truth" else chooser.randrange(256)]


@pytest.mark.parametrize("side_lines", [0, 1, 3])
@pytest.mark.parametrize("kv_cache_tokens", [4096, 160])
def test_what_was_drafted_before_never_shows(
    tiny_model: TinyModel, target: Target, side_lines: int, kv_cache_tokens: int
) -> None:
    """Four requests take turns, with verdicts of all kinds, in a cache that holds all of them or hardly one."""
    chooser = random.Random(7)
    driver = Driver(draft_settings(tiny_model.folder, kv_cache_tokens=kv_cache_tokens, side_lines=side_lines))
    samplings = list(SAMPLINGS.values())[:4]
    texts = [PROMPT[: 20 + index] for index in range(4)]
    driver.tell([open_(index, text, samplings[index]) for index, text in enumerate(texts)])
    news: list[list[int]] = [[] for _ in texts]
    ready = 0
    for round_ in range(1, 9):
        asked = chooser.sample(range(4), k=chooser.randint(1, 4))
        driver.tell(commits=[commit(i, round_, len(texts[i]) - len(news[i]), news[i], count=3) for i in asked])
        proposals = {proposal.request: proposal for proposal in driver.finish()}
        assert sorted(proposals) == sorted(asked)
        for i in asked:
            proposal = proposals[i]
            ready += proposal.num_ready
            fresh = target.draw(texts[i], samplings[i], 3, prompt_length=20 + i)
            assert ids_of(proposal) == fresh
            news[i] = verdict(chooser, proposal, fresh)
            texts[i] = texts[i] + news[i]
        driver.idle(chooser.randrange(30))
    assert ready > 0
