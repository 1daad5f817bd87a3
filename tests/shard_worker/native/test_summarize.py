"""Rows of logits in one look: the first best index, its value, the log-sum-exp; all as PyTorch has them."""

import pytest
import torch

from common.arrays import F32, I32
from shard_worker.native.library import Runner
from shard_worker.sampling.records import sample_records
from shard_worker.sampling.state import SequenceState
from tests.support.plans import greedy_open


@pytest.mark.parametrize("size", [1, 7, 16, 33, 1000, 49_152])
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_as_pytorch(runner: Runner, rows: int, size: int) -> None:
    values = torch.randn(rows, size, generator=torch.Generator().manual_seed(size)) * 8
    values[:, size // 2] = values[:, -1] = values.max()  # ties go to the lower index
    at, best, lse = runner.summarize(values)
    assert at.tolist() == [row.tolist().index(row.max().item()) for row in values]
    assert torch.equal(best, values.amax(dim=1))
    torch.testing.assert_close(lse, values.logsumexp(dim=1), rtol=1e-6, atol=2e-6)


def test_what_is_not_finite_stays_with_its_row(runner: Runner) -> None:
    values = torch.randn(4, 100)
    clean = runner.summarize(values)
    values[0, 40], values[1, 99], values[2, 3] = torch.nan, torch.inf, -torch.inf
    _, _, lse = runner.summarize(values)
    assert not lse[:2].isfinite().any()
    assert lse[2].isfinite() and lse[3] == clean[2][3]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_records_are_the_same(runner: Runner, temperature: float) -> None:
    raw = torch.randn(5, 300)
    opening = greedy_open(1)
    opening.temperature, opening.seed = temperature, 3
    opening.bias_ids, opening.bias_values = I32.type(7).tobytes(), F32.type(2.5).tobytes()
    for states in ([SequenceState.open(opening)] * 5, [SequenceState.open(greedy_open(2))] * 5):
        plain, _ = sample_records(raw, states, range(5), 1000, 1, 0, 0)
        quick, _ = sample_records(raw, states, range(5), 1000, 1, 0, 0, runner.summarize)
        for name in plain.__dataclass_fields__:
            expected, got = getattr(plain, name), getattr(quick, name)
            assert got.shape == expected.shape and got.dtype == expected.dtype, name
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
