"""What a plan's rows come to first: rows that were run ahead are taken as they are, all others are computed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shard_worker.continuation import Drawn, ListLengths
from shard_worker.passes import Passes
from shard_worker.plan import Counts, Rows, ranges, starts
from shard_worker.run_ahead import AheadRows
from shard_worker.sampling.state import SequenceState


def first_drawn(
    passes: Passes,
    rows: Rows,
    states_R: Sequence[SequenceState],
    lengths: ListLengths,
    ahead_A: Counts,
    ahead: AheadRows | None,
) -> tuple[Drawn, AheadRows | None]:
    """Return what `rows` come to in one pass, or in all, and `ahead` again where it was of use.

    `ahead` are the rows that the ranks computed unasked, if they did. For `ahead_A` see Passes.run.
    """
    if ahead is not None:
        if (drawn := ahead.answer(rows, states_R, lengths)) is not None:
            return drawn, ahead
        found_R = ahead.find(rows)
        if (found_R >= 0).any():
            return passes.draw(rows, states_R, lengths, *_logits(passes, rows, ahead, found_R)), ahead
    return passes.run(rows, states_R, lengths, ahead_A), None


def _logits(passes: Passes, rows: Rows, ahead: AheadRows, found_R: Counts) -> tuple[Tensor, Tensor]:
    """Return logits of the sampled positions, float32[P, V], and hidden states of the scored ones, [S, M]."""
    is_found_R = found_R >= 0
    if is_found_R.all():
        in_order = np.array_equal(found_R, np.arange(len(ahead.logits_AV)))
        sampled_PV = ahead.logits_AV if in_order else ahead.logits_AV[torch.from_numpy(found_R)]
        return sampled_PV, sampled_PV[:0]
    others_PV, scored_SM = passes.computed(rows.select(np.flatnonzero(~is_found_R)))
    sampled_PV = others_PV.new_empty(int(rows.sampled_R.sum()), others_PV.shape[1])
    sampled_PV[_places(rows, np.flatnonzero(~is_found_R))] = others_PV
    sampled_PV[_places(rows, np.flatnonzero(is_found_R))] = ahead.logits_AV[torch.from_numpy(found_R[is_found_R])]
    return sampled_PV, scored_SM


def _places(rows: Rows, members: Counts) -> Tensor:
    """Return where the sampled positions of these rows lie among those of all rows."""
    return torch.from_numpy(ranges(starts(rows.sampled_R)[members], rows.sampled_R[members]))
