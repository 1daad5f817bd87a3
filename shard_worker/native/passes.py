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
from shard_worker.plan import Counts, Rows
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
            kept_ids=decoder.sampler.kept_ids,
            world_size=decoder.world_size,
            rank=decoder.rank,
            all_reduce=None if all_reduce is None else all_reduce.function,
            context=None if all_reduce is None else all_reduce.context,
        )

    def takes(self, rows: Rows, states_R: Sequence[SequenceState]) -> bool:
        """Return whether such a step is run here."""
        return self._decoder.takes(len(rows.ids_N)) and all(state.is_plain for state in states_R)

    def __call__(
        self, rows: Rows, states_R: Sequence[SequenceState], lengths: ListLengths, ahead_A: Counts | None
    ) -> Drawn:
        """Run a step with all its passes; the winners of rows `ahead_A` are merged. Meets the other ranks.

        Raises what the group's all_reduce raises.
        """
        decoder, call = self._decoder, self._call
        states_P, positions_P = sampled_positions(rows, states_R)
        num_rows, num_sampled, num_passes = len(states_R), len(states_P), 1 + rows.num_continued
        cut = [min(length, decoder.head.rows) for length in lengths]
        starts = list_starts(num_sampled * num_passes, cut)
        counts_5R = np.array((rows.base_lengths_R, rows.lengths_R, rows.sampled_R, rows.scored_R, rows.blocks_R))
        temperatures_R = np.array([state.params.temperature for state in states_R], dtype=np.float32)
        seeds_R = np.array([state.params.seed_bits for state in states_R])
        hidden_PM = torch.empty(num_sampled + len(rows.scored_ids_S), decoder.head.columns)
        logits_nPV = torch.empty(num_passes, num_sampled, decoder.head.rows)
        records = np.empty(starts[-1], dtype="<i4")  # ids are int32, all else float32
        winners_A = np.empty(0 if ahead_A is None else len(ahead_A), dtype=np.int32)
        call.num_rows, call.num_passes = num_rows, num_passes
        call.num_noised, call.num_top, call.num_raw = cut
        call.rows, call.ids, call.blocks = counts_5R.ctypes.data, rows.ids_N.ctypes.data, rows.block_tables.ctypes.data
        call.temperatures, call.seeds = temperatures_R.ctypes.data, seeds_R.ctypes.data
        call.hidden, call.logits, call.records = hidden_PM.data_ptr(), logits_nPV.data_ptr(), records.ctypes.data
        call.num_ahead, call.winners = len(winners_A), winners_A.ctypes.data
        call.ahead = None if ahead_A is None else ahead_A.ctypes.data
        decoder.run_passes(call)
        steps = tuple(
            UndrawnStep(
                logits_PV, states_P, [position + index for position in positions_P], decoder.first_id, decoder.trimmed
            )
            for index, logits_PV in enumerate(logits_nPV)
        )
        return Drawn(
            packed(records, starts), steps, num_passes, hidden_PM[num_sampled:], None if ahead_A is None else winners_A
        )
