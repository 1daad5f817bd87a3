"""The acceptance that calibration counts, against closed forms; and what is stored of it."""

from pathlib import Path

import pytest
import torch

from common.errors import CheckpointError
from draft_worker.acceptance import Counts, count_accepted
from draft_worker.calibrate import best_beta
from draft_worker.calibration_file import Calibration, Measured, Pair, read_calibration, write_calibration

P = torch.tensor([0.30, 0.20, 0.15, 0.10, 0.10, 0.05, 0.05, 0.05])
Q = P.flip(0)
SAMPLES = 40_000


def test_coupled_draws_agree_as_often_as_the_closed_form_says() -> None:
    """Daliri et al.: sum over i of 1 / sum over j of max(p_j / p_i, q_j / q_i)."""
    ratios = torch.maximum(P[None] / P[:, None], Q[None] / Q[:, None])
    expected = float((1 / ratios.sum(dim=1)).sum())
    counts = count_accepted(Q.log().expand(SAMPLES, -1), P.log().expand(SAMPLES, -1), 1.0, [1.0], 5, 100)
    assert counts.positions == SAMPLES
    assert counts.accepted_B[0] / SAMPLES == pytest.approx(expected, abs=0.01)
    assert counts.greedy / SAMPLES == pytest.approx(0.05, abs=0.005)  # p of the draft's favourite
    assert counts.optimum / SAMPLES == pytest.approx(float(torch.minimum(P, Q).sum()), abs=1e-4)


def test_an_underconfident_draft_wants_a_lower_temperature() -> None:
    logits = 3 * torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    betas = [0.4, 0.6, 1.0, 1.5]
    counts = count_accepted(0.6 * logits, logits, 0.8, betas, 1, 1)
    assert best_beta(betas, counts) == 0.6 and counts.accepted_B[1] == len(logits) > counts.accepted_B[2]


def test_greedy_draws_ignore_the_factor() -> None:
    logits = torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    counts = count_accepted(logits, torch.cat((logits[:70], -logits[70:])), 0.0, [0.5, 1.0], 1, 1)
    assert counts.accepted_B == (70, 70) and counts.greedy == counts.optimum == 70


def test_of_equally_good_factors_the_one_nearest_to_1() -> None:
    assert best_beta([0.5, 0.9, 1.5], Counts(10, (7, 7, 7), 5, 8.0)) == 0.9


def test_the_file_keeps_each_target_s_factors(tmp_path: Path) -> None:
    def pair(target_hash: str, beta: float) -> Pair:
        measured = [Measured(temperature=t, beta=beta * t, acceptance=0.8, acceptance_at_1=0.7) for t in (0.5, 1.0)]
        return Pair(target_hash=target_hash, target="t", num_tokens=9, measured=tuple(measured))

    assert read_calibration(tmp_path) == Calibration()
    stored = Calibration().with_pair(pair("a", 0.5)).with_pair(pair("b", 1.2)).with_pair(pair("a", 0.9))
    write_calibration(tmp_path, stored)
    assert read_calibration(tmp_path) == stored and len(stored.pairs) == 2
    assert [stored.beta("a", t) for t in (0.1, 0.74, 0.76, 50.0)] == [0.45, 0.45, 0.9, 0.9]
    assert stored.beta("b", 1.0) == 1.2 and stored.beta("unknown", 1.0) == 1.0


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": "other"}', '{"pairs": 1}', '{"format_version": 2}', '{"new": 1}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "draft.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"draft\.json is not a valid calibration"):
        read_calibration(tmp_path)
