"""A rank's records are the best few of its own slice."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import Refused
from shard_worker.sampling.noise import gumbel_noise
from shard_worker.sampling.records import LastStep, SampledRecords, sample_records, score_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack
from tandem.shard.v1.shard_service_pb2 import SequenceOpen, StepResult

FIRST = 1000
GREEDY = SequenceState.open(SequenceOpen(repetition_penalty=1))
WARM = SequenceState.open(SequenceOpen(repetition_penalty=1, seed=7, temperature=0.5))


def logits(rows: int, size: int = 300) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(rows)) * 3


def sampled(raw: Tensor, states: list[SequenceState], r: int, m: int, n: int) -> tuple[SampledRecords, LastStep]:
    return sample_records(raw, states, list(range(10, 10 + len(states))), FIRST, r, m, n)


def check_list(ids: Tensor, values: Tensor, whole: Tensor, length: int) -> None:
    expected = whole.sort(dim=1, descending=True, stable=True)
    assert ids.dtype == torch.int32
    assert torch.equal(ids.long() - FIRST, expected.indices[:, :length])
    assert torch.equal(values, expected.values[:, :length])


def test_lists_and_sums() -> None:
    raw = logits(4)
    states = [WARM, GREEDY, WARM, GREEDY]
    records, _ = sampled(raw, states, 8, 20, 5)
    processed = raw.clone()
    processed[[0, 2]] /= 0.5
    scores = processed.clone()
    scores[[0, 2]] += gumbel_noise(torch.tensor([7, 7]), torch.tensor([10, 12]), FIRST, 300, "cpu")
    check_list(records.noised_ids, records.noised_scores, scores, 8)
    check_list(records.top_ids, records.top_processed, processed, 20)
    check_list(records.raw_ids, records.raw_logits, raw, 5)
    local = records.noised_ids.long() - FIRST
    assert torch.equal(records.noised_processed, processed.gather(1, local))
    assert torch.equal(records.noised_raw, raw.gather(1, local))
    torch.testing.assert_close(records.processed_lse, processed.double().logsumexp(1).float())
    torch.testing.assert_close(records.raw_lse, raw.double().logsumexp(1).float())


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    raw = torch.zeros(2, 300)
    raw[1, [40, 200]] = 1
    for r in (1, 8):
        records, _ = sampled(raw, [GREEDY, GREEDY], r, 0, 0)
        assert records.noised_ids[:, 0].tolist() == [FIRST, FIRST + 40]


def test_greedy_neither_copies_nor_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard_worker.sampling.records.gumbel_noise", None)
    raw = logits(2)
    records, last = sampled(raw, [GREEDY, GREEDY], 1, 0, 0)
    assert last.processed_PV is raw and last.scores_PV is raw
    assert records.noised_raw is records.noised_scores and records.processed_lse is records.raw_lse


def test_a_row_is_the_same_alone_and_in_a_batch() -> None:
    raw = logits(6)
    states = [WARM, GREEDY] * 3
    batch, _ = sampled(raw, states, 4, 8, 3)
    for row in range(6):
        alone, _ = sample_records(raw[row : row + 1], [states[row]], [10 + row], FIRST, 4, 8, 3)
        for field in fields(SampledRecords):
            assert torch.equal(getattr(alone, field.name)[0], getattr(batch, field.name)[row]), field.name


def test_lists_are_cut_to_the_slice() -> None:
    records, _ = sampled(logits(2, size=5), [WARM, WARM], 8, 64, 20)
    assert records.noised_ids.shape == records.top_ids.shape == records.raw_ids.shape == (2, 5)


@pytest.mark.parametrize("states", [[GREEDY] * 3, [WARM] * 3])
def test_nan_shows_in_its_own_row_only(states: list[SequenceState]) -> None:
    raw = logits(3)
    clean, _ = sampled(raw, states, 4, 8, 3)
    raw[1, 123] = torch.nan
    records, _ = sampled(raw, states, 4, 8, 3)
    assert records.raw_lse.isnan().tolist() == [False, True, False]
    assert ((records.noised_ids >= FIRST) & (records.noised_ids < FIRST + 300)).all()
    for field in fields(SampledRecords):
        for row in (0, 2):
            assert torch.equal(getattr(clean, field.name)[row], getattr(records, field.name)[row]), field.name


def test_resolve_gives_whole_rows() -> None:
    raw = logits(3)
    records, last = sampled(raw, [WARM, GREEDY, WARM], 2, 0, 0)
    row = last.resolve(2)
    assert row.first_id == FIRST and torch.equal(row.raw, raw[2]) and torch.equal(row.processed, raw[2] / 0.5)
    assert row.scores.max() == records.noised_scores[2, 0]
    for position in (-1, 3):
        with pytest.raises(Refused) as caught:
            last.resolve(position)
        assert caught.value.reason == "BAD_PLAN"


def test_scored_positions_are_taken_in_chunks() -> None:
    raw = logits(75)
    ids = torch.arange(75) * 20  # most of them in other slices
    calls: list[int] = []

    def rows(start: int, stop: int) -> Tensor:
        calls.append(stop - start)
        return raw[start:stop]

    records = score_records(rows, ids, FIRST, 4)
    assert sum(calls) == 75 and max(calls) <= 32
    inside = (ids >= FIRST) & (ids < FIRST + 300)
    assert inside.any() and not inside.all()
    expected = torch.where(inside, raw.gather(1, (ids - FIRST).clamp(0, 299)[:, None])[:, 0], -torch.inf)
    assert torch.equal(records.scored_logits, expected)
    torch.testing.assert_close(records.scored_lse, raw.double().logsumexp(1).float())
    check_list(records.scored_raw_ids, records.scored_raw_logits, raw, 4)


def test_packed_records_set_every_field() -> None:
    raw = logits(2)
    records, _ = sampled(raw, [WARM, GREEDY], 3, 2, 0)
    scored = score_records(lambda start, stop: raw[start:stop], torch.tensor([FIRST, 0]), FIRST, 1)
    result = StepResult()
    pack(records).fill(result)
    pack(scored).fill(result)
    for part in (records, scored):
        for field in fields(part):
            tensor = getattr(part, field.name)
            data = np.frombuffer(getattr(result, field.name), "<i4" if "ids" in field.name else "<f4")
            assert data.tolist() == tensor.flatten().tolist(), field.name
