"""All passes of a step in one native call: model, head and draw, each pass on the winners of the one before.

Shapes: R rows, P sampled positions of a pass, S scored ones, n passes, A rows to be run ahead, V ids of the slice.
"""

from collections.abc import Sequence

import numpy as np
import torch

from shard_worker.continuation import Drawn, ListLengths, sampled_positions
from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.sampler import list_starts, packed
from shard_worker.native.structures import CPasses
from shard_worker.plan import Counts, Ints, Rows
from shard_worker.sampling.records import UndrawnStep
from shard_worker.sampling.state import SequenceState


class NativePasses:
    """Runs steps whose rows are drawn from the model's own logits: penalties and biases are PyTorch's."""

    def __init__(self, decoder: NativeDecoder) -> None:
        self._decoder = decoder
        all_reduce = decoder.all_reduce
        self._call = CPasses(
            head=decoder.head.struct,
            size=decoder.head.rows,
            first_id=decoder.first_id,
            world_size=decoder.world_size,
            rank=decoder.rank,
            all_reduce=None if all_reduce is None else all_reduce.function,
            context=None if all_reduce is None else all_reduce.context,
        )
        self._states_R: list[SequenceState] = []
        self._lists: tuple[int, ListLengths] | None = None
        self._block_tables: Ints | None = None

    def takes(self, rows: Rows, states_R: Sequence[SequenceState]) -> bool:
        """Return whether such a step is run here."""
        return self._decoder.takes(len(rows.ids_N)) and all(state.is_plain for state in states_R)

    def __call__(self, rows: Rows, states_R: Sequence[SequenceState], lengths: ListLengths, ahead_A: Counts) -> Drawn:
        """Run a step with all its passes; the winners of rows `ahead_A` are merged. Meets the other ranks.

        Raises what the group's all_reduce raises.
        """
        decoder, call = self._decoder, self._call
        states_P, positions_P = sampled_positions(rows, states_R)
        num_sampled, num_passes = len(states_P), 1 + rows.num_continued
        counts = (rows.base_lengths_R, rows.lengths_R, rows.sampled_R, rows.scored_R, rows.blocks_R, ahead_A)
        counts_5R_A = np.concatenate(counts)
        hidden_PM = torch.empty(num_sampled + len(rows.scored_ids_S), decoder.head.columns)
        logits_nPV = torch.empty(num_passes, num_sampled, decoder.head.rows)
        winners_A = np.empty(len(ahead_A), dtype=np.int32)
        self._set_sequences(states_R)
        self._set_lists(num_sampled * num_passes, lengths)
        call.num_rows, call.num_passes, call.num_ahead = len(states_R), num_passes, len(ahead_A)
        call.rows = counts_5R_A.ctypes.data
        call.ahead = call.rows + counts_5R_A.itemsize * (len(counts_5R_A) - len(ahead_A))
        call.ids, call.blocks, call.winners = rows.ids_N.ctypes.data, self._tables(rows), winners_A.ctypes.data
        call.hidden, call.logits = hidden_PM.data_ptr(), logits_nPV.data_ptr()
        decoder.run_passes(call)
        steps = tuple(
            UndrawnStep(logits_PV, states_P, [position + index for position in positions_P], decoder.first_id)
            for index, logits_PV in enumerate(logits_nPV.unbind())
        )
        winners = winners_A if len(ahead_A) else None
        return Drawn(packed(self._records, self._starts), steps, num_passes, hidden_PM[num_sampled:], winners)

    # What follows is mostly the same from step to step, and then left as it is.

    def _set_sequences(self, states_R: Sequence[SequenceState]) -> None:
        if states_R != self._states_R:
            self._states_R = list(states_R)
            self._temperatures_R = np.array([state.params.temperature for state in states_R], dtype=np.float32)
            self._seeds_R = np.array([state.params.seed_bits for state in states_R], dtype=np.int64)
            self._call.temperatures, self._call.seeds = self._temperatures_R.ctypes.data, self._seeds_R.ctypes.data

    def _set_lists(self, num_positions: int, lengths: ListLengths) -> None:
        if (num_positions, lengths) != self._lists:
            self._lists = num_positions, lengths
            cut = [min(length, self._decoder.head.rows) for length in lengths]
            self._call.num_noised, self._call.num_top, self._call.num_raw = cut
            self._starts = list_starts(num_positions, cut)
            self._records = np.empty(self._starts[-1], dtype="<i4")  # ids are int32, all else float32
            self._call.records = self._records.ctypes.data

    def _tables(self, rows: Rows) -> int:
        if rows.block_tables is not self._block_tables:
            self._block_tables, self._block_tables_at = rows.block_tables, rows.block_tables.ctypes.data
        return self._block_tables_at
