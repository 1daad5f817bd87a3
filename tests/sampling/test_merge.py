"""Merged records of any split equal the explicit softmax, sort and argmax of the whole row."""

from functools import partial

import numpy as np
import pytest
import torch

from gateway.sampling.candidates import merge_scored
from gateway.sampling.logprobs import scored_logprobs, token_logprobs
from gateway.sampling.params import SamplingParams
from shard_worker.sampling.records import score_records
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import StepResult
from tests.sampling.chain import cut, explicit_draws, run_step

ROWS = 4


def logits(size: int, seed: int) -> torch.Tensor:
    """Rows of ordinary, coarse (so tied), peaked and equal logits."""
    values = torch.randn(ROWS, size, generator=torch.Generator().manual_seed(seed)) * 3
    values[1] = values[1].to(torch.bfloat16).float().round()
    values[2] *= 10
    values[3] = 2.5
    return values


@pytest.mark.parametrize("num_slices", [1, 2, 3, 5])
@pytest.mark.parametrize(("size", "repeats"), [(8, 20), (61, 20), (1000, 5), (49_152, 1)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_any_split(num_slices: int, size: int, repeats: int, temperature: float) -> None:
    random = np.random.default_rng(size + num_slices)
    params = SamplingParams(temperature=temperature, seed=5)
    positions = list(range(3, 3 + ROWS))
    for repeat in range(repeats):
        raw = logits(size, repeat)
        step = run_step(raw, params, cut(size, num_slices, random), positions, (2, 6, 5))
        merged, expected = step.candidates, explicit_draws(raw, params, positions)
        softmax = raw.double().log_softmax(dim=1)
        order = raw.sort(dim=1, descending=True, stable=True).indices[:, :5]
        np.testing.assert_allclose(merged.raw_lse, raw.double().logsumexp(1).numpy(), rtol=3e-7, atol=2e-6)
        divisor = params.temperature or 1.0
        np.testing.assert_allclose(
            merged.processed_lse, (raw.double() / divisor).logsumexp(1).numpy(), rtol=3e-7, atol=2e-6
        )
        for row in range(ROWS):
            choice, decided = step.draw(row, params)
            assert decided and choice.token_id == expected[row]
            assert choice == step.draw_from_whole(row, params)
            logprobs = token_logprobs(merged, row, choice, 5)
            assert logprobs.logprob == pytest.approx(float(softmax[row, choice.token_id]), abs=5e-5)
            assert list(logprobs.top_ids) == order[row].tolist()
            assert logprobs.top_logprobs == pytest.approx(softmax[row, order[row]].tolist(), abs=5e-5)


def rows_of(raw_SV: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    return raw_SV[start:stop]


@pytest.mark.parametrize("num_slices", [1, 2, 3, 5])
def test_scores(num_slices: int) -> None:
    random = np.random.default_rng(num_slices)
    raw = logits(500, 1).repeat(20, 1)
    ids = random.integers(0, 500, len(raw)).astype(np.int32)
    ids[::3] = raw.argmax(dim=1).numpy()[::3]
    slices = cut(500, num_slices, random)
    results = []
    for owner in slices:
        own = raw[:, owner.first_id : owner.first_id + owner.size]
        result = StepResult()
        pack(score_records(partial(rows_of, own), torch.from_numpy(ids), owner.first_id, 3)).fill(result)
        results.append(result)
    got = scored_logprobs(merge_scored(results, slices, len(raw), 3), 0, ids, 3)
    expected = raw.double().log_softmax(dim=1)
    rows = torch.arange(len(raw))
    np.testing.assert_allclose(got.logprobs, expected[rows, torch.from_numpy(ids).long()].numpy(), atol=5e-5)
    order = raw.sort(dim=1, descending=True, stable=True).indices[:, :3].numpy()
    assert np.array_equal(got.top_ids, order)
    assert np.array_equal(got.is_greedy, ids == order[:, 0])


def test_one_rank_with_a_nan_fails_its_row_alone() -> None:
    raw = logits(100, 0)
    raw[2, 80] = torch.nan
    slices = cut(100, 3, np.random.default_rng(0))
    merged = run_step(raw, SamplingParams(temperature=1), slices, [1] * ROWS, (4, 8, 2)).candidates
    assert merged.is_finite.tolist() == [True, True, False, True]
