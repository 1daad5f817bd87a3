"""Rows of logits in one look: the first best index, its value, the log-sum-exp; all as PyTorch has them."""

import numpy as np
import pytest
import torch

from common.arrays import F32, I32
from shard_worker.native.library import Runner
from shard_worker.sampling.records import noised_logits, sample_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack, pack_winners
from tandem.shard.v1.shard_service_pb2 import StepResult
from tests.support.plans import greedy_open

NAMES = {"noised_ids", "noised_scores", "noised_processed", "noised_raw", "processed_lse", "raw_lse"}


@pytest.mark.parametrize("size", [1, 7, 16, 33, 1000, 49_152])
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_as_pytorch(runner: Runner, rows: int, size: int) -> None:
    values = torch.randn(rows, size, generator=torch.Generator().manual_seed(size)) * 8
    values[:, size // 2] = values[:, -1] = values.max()  # ties go to the lower index
    at, best, lse = runner.summarize(values)
    assert at.tolist() == [row.tolist().index(row.max().item()) for row in values]
    assert best.tolist() == values.amax(dim=1).tolist()
    torch.testing.assert_close(torch.from_numpy(lse), values.logsumexp(dim=1), rtol=1e-6, atol=2e-6)


def test_what_is_not_finite_stays_with_its_row(runner: Runner) -> None:
    values = torch.randn(4, 100)
    clean = runner.summarize(values)
    values[0, 40], values[1, 99], values[2, 3] = torch.nan, torch.inf, -torch.inf
    _, _, lse = runner.summarize(values)
    assert not np.isfinite(lse[:2]).any()
    assert np.isfinite(lse[2]) and lse[3] == clean[2][3]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_records_are_the_same(runner: Runner, temperature: float) -> None:
    raw = torch.randn(5, 300)
    opening = greedy_open(1)
    opening.temperature, opening.seed = temperature, 3
    opening.bias_ids, opening.bias_values = I32.type(7).tobytes(), F32.type(2.5).tobytes()
    for states in ([SequenceState.open(opening)] * 5, [SequenceState.open(greedy_open(2))] * 5):
        plain, quick = StepResult(), StepResult()
        pack(sample_records(raw, states, range(5), 1000, 1, 0, 0)[0]).fill(plain)
        pack_winners(noised_logits(raw, states, range(5), 1000), runner.summarize).fill(quick)
        assert quick.noised_ids == plain.noised_ids and {field.name for field, _ in plain.ListFields()} == NAMES
        for field, expected in plain.ListFields():
            got = np.frombuffer(getattr(quick, field.name), F32)
            np.testing.assert_allclose(got, np.frombuffer(expected, F32), rtol=1e-6, atol=1e-6, err_msg=field.name)
