"""From the model's raw logits to processed ones: penalties, bias, temperature, in the order of
sampling.proto.

Shapes: P sampled positions of a step, V token ids of this rank's slice, N entries found in histories.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shard_worker.sampling.state import SequenceState


def process(raw_PV: Tensor, states: Sequence[SequenceState], positions: Sequence[int], first_id: int) -> Tensor:
    """Return the processed logits, float32[P, V]; `raw_PV` itself where nothing changes it.

    raw_PV: float32[P, V], left as it is. states[p] is the sequence of sampled position p (the same one may
    come several times) and positions[p] the absolute position of the token being drawn: its history is the
    ids before it. first_id is the slice's first token id.

    Raises Refused(BAD_PLAN) when a history is shorter than its position.
    """
    divisors = [state.params.divisor for state in states]
    processed_PV = penalised_and_biased(raw_PV, states, positions, first_id)
    if any(divisor != 1 for divisor in divisors):
        divisors_P1 = torch.tensor(divisors, dtype=torch.float32).to(raw_PV.device).unsqueeze(1)
        processed_PV = processed_PV / divisors_P1
    return processed_PV


def penalised_and_biased(
    raw_PV: Tensor, states: Sequence[SequenceState], positions: Sequence[int], first_id: int
) -> Tensor:
    """Return the logits before they are divided by the temperature; otherwise as `process`."""
    penalised = [row for row, state in enumerate(states) if state.params.has_penalties]
    biased = [row for row, state in enumerate(states) if len(state.params.bias_ids)]
    if not penalised and not biased:
        return raw_PV
    processed_PV = raw_PV.clone()
    if penalised:
        _penalise(processed_PV, penalised, states, positions, first_id)
    if biased:
        _add_biases(processed_PV, biased, states, first_id)
    return processed_PV


def _penalise(
    logits_PV: Tensor,
    rows: list[int],
    states: Sequence[SequenceState],
    positions: Sequence[int],
    first_id: int,
) -> None:
    """Apply the three penalties, in place, to `rows`.

    Repetition (Keskar et al. 2019, as in transformers) sees prompt and output; presence and frequency see the
    output: logit - frequency_penalty * count - presence_penalty * (count > 0), OpenAI's formula.
    """
    size = logits_PV.shape[1]
    cells, outputs, lengths = [], [], []
    for index, row in enumerate(rows):
        local = states[row].history(positions[row]).astype(np.int64) - first_id
        inside = np.flatnonzero((local >= 0) & (local < size))
        cells.append(local[inside] + index * size)
        outputs.append(inside >= states[row].prompt_length)
        lengths.append(len(inside))
    params = [states[row].params for row in rows]
    penalties = np.array([(p.repetition_penalty, p.presence_penalty, p.frequency_penalty) for p in params], "f4")
    device = logits_PV.device
    cells_N = torch.from_numpy(np.concatenate(cells)).to(device)
    outputs_N = torch.from_numpy(np.concatenate(outputs)).to(device, torch.float32)
    repetition_N, presence_N, frequency_N = torch.from_numpy(np.repeat(penalties, lengths, axis=0)).to(device).unbind(1)

    rows_index = torch.tensor(rows).to(device)
    touched = logits_PV[rows_index].flatten()
    counts_N = torch.zeros_like(touched).index_add_(0, cells_N, outputs_N)[cells_N]
    seen_N = touched[cells_N]
    seen_N = torch.where(seen_N < 0, seen_N * repetition_N, seen_N / repetition_N)
    seen_N -= frequency_N * counts_N
    seen_N -= presence_N * (counts_N > 0)
    touched[cells_N] = seen_N  # a repeated cell is written the same value each time
    logits_PV[rows_index] = touched.view(len(rows), size)


def _add_biases(logits_PV: Tensor, rows: list[int], states: Sequence[SequenceState], first_id: int) -> None:
    size = logits_PV.shape[1]
    cells, values = [], []
    for row in rows:
        local = states[row].params.bias_ids.astype(np.int64) - first_id
        inside = (local >= 0) & (local < size)
        cells.append(local[inside] + row * size)
        values.append(states[row].params.bias_values[inside])
    cells_N = torch.from_numpy(np.concatenate(cells)).to(logits_PV.device)
    values_N = torch.from_numpy(np.concatenate(values)).to(logits_PV.device)
    logits_PV.view(-1).index_add_(0, cells_N, values_N)
