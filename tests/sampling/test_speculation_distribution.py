"""Speculation draws from the target's own distribution, and the test notices when it does not.

A tiny Llama of SIZE = 8 ids, after a fixed prompt: the 512 texts of three tokens have probabilities that can be listed.
Each seed draws one text in rounds of 0 to 2 drafted tokens, drafts being the draws of a model that is somewhat off with
the same noise, through records, wire bytes, merging and the gateway's Decision. Gates: chi-square of N = 860,000 texts
against the listed probabilities at alpha = 1e-6, which sees a total variation distance of 0.01 (test_the_stated_power),
and equality of every text with what is drawn token by token without drafts.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from gateway.decision import Decision, Records
from gateway.generation import Generation
from gateway.scheduling.plan import Outcome, Row, StepPlan
from tests.sampling.speculation_chain import (
    LENGTH,
    PROMPT,
    SIZE,
    Decide,
    Ints,
    Ranks,
    Tables,
    draw_in_rounds,
    draw_plainly,
    texts_to_cells,
)
from tests.support.tiny_model import TinyShape, random_model

SAMPLES = 860_000
WRONG_SAMPLES = 80_000
TEMPERATURE = 1.4
ALPHA = 1e-6
RANDOM = random.Random(5)


@pytest.fixture(scope="module")
def tables() -> Tables:
    """The logits of the tiny model after every context, and of a draft that is somewhat off."""
    model, logits = random_model(TinyShape(vocabulary_size=SIZE, layers=1), seed=1), []
    for length in range(LENGTH):
        texts = torch.tensor(list(product(range(SIZE), repeat=length)), dtype=torch.int64)
        prompts = torch.tensor(PROMPT).expand(len(texts), -1)
        with torch.no_grad():
            logits.append(model(torch.cat([prompts, texts], dim=1)).logits[:, -1])
    target_CV = torch.cat(logits)
    off_CV = torch.randn(target_CV.shape, generator=torch.Generator().manual_seed(2))
    return Tables(target_CV, target_CV + 2 * off_CV, TEMPERATURE)


def check_distribution(texts_BL: Ints, tables: Tables) -> None:
    """Chi-square against the listed probabilities; cells that expect fewer than 10 are pooled."""
    expected = tables.joint() * len(texts_BL)
    counts = np.bincount(texts_to_cells(texts_BL), minlength=len(expected))
    rare = expected < 10
    counts, expected = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert stats.chisquare(counts, expected).pvalue > ALPHA, "the distribution is wrong"


def test_speculation_keeps_the_distribution(tables: Tables) -> None:
    """N = 860,000; and each text is the one that its seed draws without drafts."""
    seeds = range(SAMPLES)
    texts, rounds = draw_in_rounds(tables, seeds)
    assert 1.5 < rounds.mean() < 2.5, "drafts must be accepted and refused"
    check_distribution(texts, tables)
    assert np.array_equal(texts, draw_plainly(tables, seeds))


def test_the_stated_power() -> None:
    """A total variation distance of 0.01, spread over equal cells in turn, is seen with power 0.999."""
    cells = SIZE**LENGTH
    threshold = stats.chi2.isf(ALPHA, cells - 1)
    assert stats.ncx2.sf(threshold, cells - 1, SAMPLES * (2 * 0.01) ** 2) >= 0.999


class WrongDecision(Decision):
    """A verifier that is wrong on purpose. `ranks` tells it what no gateway knows."""

    def __init__(self, plan: StepPlan, jobs: Sequence[Generation], ranks: Any) -> None:
        super().__init__(plan, jobs, ranks)
        self.ranks: Ranks = ranks
        self.p_PV = ranks.processed_PV.softmax(1).numpy()
        self.q_PV = ranks.draft_processed_PV.softmax(1).numpy()
        self.noise_PV = ranks.noise_PV.numpy()

    async def _verify(self, records: Records, first: int, row: Row, job: Generation) -> Outcome:
        assert isinstance(records, list)  # nobody asks for more than winners
        token_ids: list[int] = []
        finished = False
        for position, draft_id in enumerate([*row.draft_ids, None], first):
            token_ids.append(self.token(records[position], position, draft_id))
            finished = job.accept(token_ids[-1], None, token_ids[-1] == draft_id)
            if finished or token_ids[-1] != draft_id:
                break
        return Outcome(tuple(token_ids), finished)

    def token(self, winner: int | None, position: int, draft_id: int | None) -> int:
        """Return the token of a position, whose best id by noised score is `winner`."""
        raise NotImplementedError


class SharedNoiseWithRatioRule(WrongDecision):
    """Accepts with probability min(1, p / q), else draws from max(p - q, 0): exact (Leviathan et al. 2023) only where
    that draw does not use the noise with which the draft was drawn.
    """

    def token(self, winner: int | None, position: int, draft_id: int | None) -> int:
        if draft_id is None:
            assert winner is not None
            return winner
        p_V, q_V = self.p_PV[position], self.q_PV[position]
        if RANDOM.random() < p_V[draft_id] / q_V[draft_id]:
            return draft_id
        rest_V = np.maximum(p_V - q_V, 1e-30)
        return int((np.log(rest_V) + self.noise_PV[position]).argmax())


class TopTwoAccepted(WrongDecision):
    """Accepts a draft that is one of the target's two likeliest tokens."""

    def token(self, winner: int | None, position: int, draft_id: int | None) -> int:
        if draft_id is not None and draft_id in self.p_PV[position].argsort()[-2:]:
            return draft_id
        assert winner is not None
        return winner


class BonusWithNoiseBefore(WrongDecision):
    """Draws the token after a wholly accepted draft with the noise of the position before."""

    def token(self, winner: int | None, position: int, draft_id: int | None) -> int:
        noise_V = self.noise_PV[position - (draft_id is None and self.follows_draft(position))]
        return int((np.log(self.p_PV[position]) + noise_V).argmax())

    def follows_draft(self, position: int) -> bool:
        """Whether a position is the last of a row that has a draft."""
        return position > 0 and bool(self.ranks.is_drafted_P[position - 1])


@pytest.mark.parametrize("decide", [SharedNoiseWithRatioRule, TopTwoAccepted, BonusWithNoiseBefore])
def test_teeth(tables: Tables, decide: Decide) -> None:
    """A wrong verifier fails the same test, on a fraction of the samples."""
    texts, _ = draw_in_rounds(tables, range(WRONG_SAMPLES), decide)
    with pytest.raises(AssertionError, match="the distribution is wrong"):
        check_distribution(texts, tables)
