"""What a plan's rows come to: rows that were run ahead are taken as they are, all others are computed."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shard_worker.forward import Forward
from shard_worker.plan import Counts, Rows, ranges, starts
from shard_worker.run_ahead import AheadRows


@dataclass(frozen=True)
class StepLogits:
    """Logits of the sampled positions in row order, float32[P, V], and hidden states of the scored ones, [S, M].

    `used` is what was run ahead, if any row of the plan was.
    """

    sampled_PV: Tensor
    scored_SM: Tensor
    used: AheadRows | None


def step_logits(forward: Forward, rows: Rows, ahead: AheadRows | None) -> StepLogits:
    """Return what `rows` come to; `ahead` are the rows that the ranks computed unasked, if they did."""
    found_R = ahead.find(rows) if ahead is not None else np.full(len(rows.lengths_R), -1)
    is_found_R = found_R >= 0
    if ahead is None or not is_found_R.any():
        return StepLogits(*_computed(forward, rows), None)
    if is_found_R.all():
        in_order = np.array_equal(found_R, np.arange(len(ahead.logits_AV)))
        sampled_PV = ahead.logits_AV if in_order else ahead.logits_AV[torch.from_numpy(found_R)]
        return StepLogits(sampled_PV, sampled_PV[:0], ahead)
    others_PV, scored_SM = _computed(forward, rows.select(np.flatnonzero(~is_found_R)))
    sampled_PV = others_PV.new_empty(int(rows.sampled_R.sum()), others_PV.shape[1])
    sampled_PV[_places(rows, np.flatnonzero(~is_found_R))] = others_PV
    sampled_PV[_places(rows, np.flatnonzero(is_found_R))] = ahead.logits_AV[torch.from_numpy(found_R[is_found_R])]
    return StepLogits(sampled_PV, scored_SM, ahead)


def _computed(forward: Forward, rows: Rows) -> tuple[Tensor, Tensor]:
    hidden_PM = forward.hidden(rows)
    num_sampled = int(rows.sampled_R.sum())
    sampled_PV = forward.logits(hidden_PM[:num_sampled]) if num_sampled else hidden_PM.new_empty(0, forward.slice_size)
    return sampled_PV, hidden_PM[num_sampled:]


def _places(rows: Rows, members: Counts) -> Tensor:
    """Return where the sampled positions of these rows lie among those of all rows."""
    return torch.from_numpy(ranges(starts(rows.sampled_R)[members], rows.sampled_R[members]))
