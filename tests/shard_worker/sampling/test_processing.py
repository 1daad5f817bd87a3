"""Penalties, bias and temperature equal their published formulas, whole and on slices."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, SequenceBiasLogitsProcessor, TemperatureLogitsWarper

from common.arrays import F32, I32, to_wire
from common.errors import Refused
from shard_worker.sampling.processing import process
from shard_worker.sampling.state import SequenceState
from tandem.shard.v1.shard_service_pb2 import SequenceOpen

SIZE = 200


def open_state(history: list[int], prompt_length: int, **fields: Any) -> SequenceState:
    fields.setdefault("repetition_penalty", 1.0)
    biases: dict[int, float] = fields.pop("biases", {})
    return SequenceState.open(
        SequenceOpen(
            prompt_length=prompt_length,
            history=to_wire(history, I32),
            bias_ids=to_wire(list(biases), I32),
            bias_values=to_wire(list(biases.values()), F32),
            **fields,
        )
    )


def logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def history(length: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, SIZE, length).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("penalty", [0.5, 1.1, 2.0, 100.0])
def test_repetition_equals_transformers(penalty: float) -> None:
    ids, raw = history(60), logits(1)
    state = open_state(ids, 30, repetition_penalty=penalty)
    penalty = state.params.repetition_penalty  # as float32
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), raw.clone())
    assert torch.equal(process(raw, [state], [60], 0), expected)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.7])
def test_temperature_equals_transformers(temperature: float) -> None:
    raw = logits(1)
    state = open_state([], 0, temperature=temperature)
    expected = TemperatureLogitsWarper(state.params.temperature)(torch.tensor([[0]]), raw)
    assert torch.equal(process(raw, [state], [0], 0), expected)


def test_bias_equals_transformers() -> None:
    raw, biases = logits(1), {3: 1.5, 77: -100.0, 199: 0.25}
    warper = SequenceBiasLogitsProcessor([[[token_id], bias] for token_id, bias in biases.items()])
    assert torch.equal(
        process(raw, [open_state([], 0, biases=biases)], [0], 0), warper(torch.tensor([[0]]), raw.clone())
    )


def test_presence_and_frequency_equal_openai() -> None:
    """mu[j] - c[j] * alpha_frequency - (c[j] > 0) * alpha_presence, c counting the output alone."""
    ids, raw = history(80), logits(1)
    state = open_state(ids, 30, presence_penalty=0.5, frequency_penalty=-0.25)
    counts = torch.bincount(torch.tensor(ids[30:]), minlength=SIZE)
    expected = raw - counts * -0.25 - (counts > 0) * 0.5
    assert torch.equal(process(raw, [state], [80], 0), expected)


def reference(raw: Tensor, ids: list[int], state: SequenceState) -> Tensor:
    """The order of sampling.proto, one row, token by token."""
    params, row = state.params, raw.clone()
    biases = dict(zip(params.bias_ids.tolist(), params.bias_values.tolist(), strict=True))
    for token_id in range(SIZE):
        if token_id in ids:
            factor = torch.tensor(params.repetition_penalty)
            row[token_id] = row[token_id] * factor if row[token_id] < 0 else row[token_id] / factor
        count = torch.tensor(float(ids[state.prompt_length :].count(token_id)))
        row[token_id] -= torch.tensor(params.frequency_penalty) * count
        row[token_id] -= torch.tensor(params.presence_penalty) * (count > 0)
        row[token_id] += biases.get(token_id, 0.0)
    return row / params.divisor


@pytest.mark.parametrize("cuts", [[0, SIZE], [0, 1, 90, SIZE], [0, 64, 128, 199, SIZE]])
def test_all_together_in_a_mixed_batch_and_on_slices(cuts: list[int]) -> None:
    """Several positions of one sequence see growing histories; neighbours without parameters are untouched."""
    ids, others = history(50), history(20, seed=2)
    biases = {ids[45]: 2.0, 0: -1.0, 199: 3.0}
    full = open_state(
        ids,
        40,
        repetition_penalty=1.3,
        presence_penalty=0.4,
        frequency_penalty=0.2,
        temperature=0.7,
        biases=biases,
    )
    plain = open_state([], 0)
    light = open_state(others, 5, frequency_penalty=1.0)
    states, positions = [full, plain, full, light, full], [44, 9, 47, 20, 50]
    raw = logits(5)
    untouched = raw.clone()
    slices = [process(raw[:, a:b], states, positions, a) for a, b in pairwise(cuts)]
    expected = [
        reference(raw[0], ids[:44], full),
        raw[1],
        reference(raw[2], ids[:47], full),
        reference(raw[3], others, light),
        reference(raw[4], ids, full),
    ]
    assert torch.equal(torch.cat(slices, dim=1), torch.stack(expected))
    assert torch.equal(raw, untouched)


def test_no_copy_where_nothing_applies() -> None:
    raw = logits(2)
    states = [open_state([], 0), open_state([], 0, temperature=1.0)]
    assert process(raw, states, [5, 6], 0) is raw


def test_a_short_history_is_refused() -> None:
    with pytest.raises(Refused):
        process(logits(1), [open_state([1, 2], 2, presence_penalty=1.0)], [3], 0)
