"""Rows through the model and to their records: in one native call where that can be, else one pass after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shard_worker.continuation import Drawn, ListLengths, sampled_positions
from shard_worker.forward import Forward
from shard_worker.gpu.sampler import GraphSampler
from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.passes import NativePasses
from shard_worker.native.sampler import NativeSampler
from shard_worker.plan import Counts, Rows
from shard_worker.sampling.records import PackedRecords, sample_records
from shard_worker.sampling.state import SequenceState
from shard_worker.sampling.wire import pack


class Passes:
    """A model and its sampler, of one rank, whose slice of the vocabulary begins at `first_id`."""

    def __init__(self, forward: Forward, sampler: GraphSampler | NativeSampler | None, first_id: int) -> None:
        self._forward, self._sampler, self._first_id = forward, sampler, first_id
        self._native = None
        if isinstance(forward.native, NativeDecoder) and isinstance(sampler, NativeSampler):
            self._native = NativePasses(forward.native)

    def run_at_once(
        self, rows: Rows, states_R: Sequence[SequenceState], lengths: ListLengths, ahead_A: Counts
    ) -> Drawn | None:
        """Return what all passes of these rows come to, or None where one call cannot compute that.

        The last pass's winners of rows `ahead_A` are merged. Meets the other ranks; raises what the model raises.
        """
        if self._native is None or not self._native.takes(rows, states_R):
            return None
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # as in Forward.hidden
        return self._native(rows, states_R, lengths, ahead_A)

    def run(self, rows: Rows, states_R: Sequence[SequenceState], lengths: ListLengths, ahead_A: Counts) -> Drawn:
        """As `run_at_once`, but only the rows' first pass where one call cannot compute all."""
        drawn = self.run_at_once(rows, states_R, lengths, ahead_A)
        return drawn or self.draw(rows, states_R, lengths, *self.computed(rows))

    def computed(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Return logits of the sampled positions in row order, float32[P, V], and hidden states of the scored ones."""
        hidden_PM = self._forward.hidden(rows)
        num_sampled = int(rows.sampled_R.sum())
        size = self._forward.slice_size
        sampled_PV = self._forward.logits(hidden_PM[:num_sampled]) if num_sampled else hidden_PM.new_empty(0, size)
        return sampled_PV, hidden_PM[num_sampled:]

    def draw(
        self,
        rows: Rows,
        states_R: Sequence[SequenceState],
        lengths: ListLengths,
        sampled_PV: Tensor,
        scored_SM: Tensor,
    ) -> Drawn:
        """Return what one pass over the rows comes to, given its logits."""
        states, positions = sampled_positions(rows, states_R)
        if not states:
            return Drawn(PackedRecords({}), (), 1, scored_SM)
        if isinstance(self._sampler, NativeSampler):
            packed, step = self._sampler(sampled_PV, states, positions, *lengths)
            return Drawn(packed, ((step,),), 1, scored_SM)
        if self._sampler is not None and self._sampler.takes(states):
            records, last = self._sampler(sampled_PV, states, positions, *lengths)
        else:
            records, last = sample_records(sampled_PV, states, positions, self._first_id, *lengths)
        return Drawn(pack(records), ((last,),), 1, scored_SM)
