"""Sampling in one replay gives the records of the plain path, to the bit, and keeps what Resolve may ask for."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from shard_worker.gpu.replay import Recorder
from shard_worker.gpu.sampler import GraphSampler
from shard_worker.sampling.records import sample_records
from shard_worker.sampling.state import SequenceParams, SequenceState

VOCABULARY, FIRST_ID = 700, 1000
PLAIN = SequenceParams(5, 0.0, 1.0, 0.0, 0.0, np.empty(0, np.int32), np.empty(0, np.float32))
NOTHING = np.empty(0, np.int32)


def devices() -> list[str]:
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def states_of(*temperatures: float) -> list[SequenceState]:
    params = [replace(PLAIN, temperature=t, seed_bits=seed - 3) for seed, t in enumerate(temperatures)]
    return [SequenceState(each, 0, NOTHING) for each in params]


def sampler_on(device: str) -> GraphSampler:
    place = torch.device(device)
    return GraphSampler(FIRST_ID, VOCABULARY, place, Recorder(place))


def logits_of(states: Sequence[SequenceState], device: str, seed: int = 1) -> Tensor:
    return 4 * torch.randn(len(states), VOCABULARY, generator=torch.Generator().manual_seed(seed)).to(device)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("temperatures", [(0.0,), (0.0, 0.0, 0.0), (0.7,), (0.0, 1.3, 0.2, 0.0, 1.0)])
@pytest.mark.parametrize("lengths", [(1, 0, 0), (8, 200, 20), (3, 1, 1000)])
def test_records_are_the_plain_path_s(
    device: str, temperatures: tuple[float, ...], lengths: tuple[int, int, int]
) -> None:
    states, sampler = states_of(*temperatures), sampler_on(device)
    positions = [7 * n for n in range(len(states))]
    for seed in (1, 2):  # the second is a replay
        logits_PV = logits_of(states, device, seed)
        expected, kept = sample_records(logits_PV, states, positions, FIRST_ID, *lengths)
        records, last = sampler(logits_PV, states, positions, *lengths)
        for field in fields(records):
            assert torch.equal(getattr(records, field.name), getattr(expected, field.name)), field.name
        for position in range(len(states)):
            ours, theirs = last.resolve(position), kept.resolve(position)
            assert torch.equal(ours.raw, theirs.raw) and torch.equal(ours.scores, theirs.scores)
            assert torch.equal(ours.processed, theirs.processed)


@pytest.mark.parametrize("device", devices())
def test_the_last_step_outlives_the_next(device: str) -> None:
    sampler, states = sampler_on(device), states_of(0.0, 0.9)
    _, last = sampler(logits_of(states, device), states, [1, 2], 2, 0, 0)
    kept = [last.resolve(1).raw.clone(), last.resolve(1).scores.clone()]
    sampler(logits_of(states, device, 2), states, [5, 6], 2, 0, 0)
    assert torch.equal(last.resolve(1).raw, kept[0]) and torch.equal(last.resolve(1).scores, kept[1])


def test_what_needs_a_history_is_left_to_the_plain_path() -> None:
    sampler = sampler_on("cpu")
    assert sampler.takes(states_of(*[0.5] * 64))
    assert not sampler.takes(states_of(*[0.5] * 65))
    bias = replace(PLAIN, bias_ids=np.array([3], np.int32), bias_values=np.array([1.0], np.float32))
    for params in (replace(PLAIN, repetition_penalty=1.1), replace(PLAIN, presence_penalty=0.1), bias):
        assert not sampler.takes([*states_of(0.0), SequenceState(params, 0, NOTHING)])
