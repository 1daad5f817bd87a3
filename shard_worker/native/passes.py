"""All passes of a step in one native call: model, head and draw, each pass on the winners of the one before.

Shapes: R rows, P sampled positions of a pass, S scored ones, n passes, A rows to be run ahead, V ids of the slice.
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from shard_worker.continuation import Drawn, ListLengths, sampled_positions
from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.sampler import list_starts, packed
from shard_worker.native.structures import CPasses
from shard_worker.plan import Counts, Floats, Ints, Rows
from shard_worker.sampling.records import Resolvable, UndrawnStep
from shard_worker.sampling.state import SequenceState


class NativePasses:
    """Runs steps whose rows are drawn from the model's own logits: penalties and biases are PyTorch's."""

    def __init__(self, decoder: NativeDecoder) -> None:
        self._decoder = decoder
        all_reduce = decoder.all_reduce
        self._call = CPasses(
            head=decoder.head.struct,
            screen=decoder.screen,
            size=decoder.head.rows,
            first_id=decoder.first_id,
            kept_ids=decoder.sampler.kept_ids,
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
        # numpy and no tensors: PyTorch's code has left the caches while the weights went through them.
        decoder, call = self._decoder, self._call
        num_sampled, num_passes = int(rows.sampled_R.sum()), 1 + rows.num_continued
        counts_5R_A = np.concatenate(
            (rows.base_lengths_R, rows.lengths_R, rows.sampled_R, rows.scored_R, rows.blocks_R, ahead_A)
        )
        hidden_PM = np.empty((num_sampled + len(rows.scored_ids_S), decoder.head.columns), dtype=np.float32)
        logits_nPV = np.empty((num_passes, num_sampled, decoder.head.rows), dtype=np.float32)
        winners_A = np.empty(len(ahead_A), dtype=np.int32)
        self._set_sequences(states_R)
        self._set_lists(num_sampled * num_passes, lengths)
        self._set_tables(rows)
        call.num_rows, call.num_passes, call.num_ahead = len(states_R), num_passes, len(ahead_A)
        call.rows = _address(counts_5R_A)
        call.ahead = call.rows + counts_5R_A.itemsize * (len(counts_5R_A) - len(ahead_A))
        call.ids, call.winners = _address(rows.ids_N), _address(winners_A)
        call.hidden, call.logits = _address(hidden_PM), _address(logits_nPV)
        decoder.run_passes(call)
        return Drawn(
            records=packed(self._records, self._starts),
            steps=(_Steps(rows, states_R, logits_nPV, decoder),) if num_sampled else (),
            num_passes=num_passes,
            hidden_SM=hidden_PM[num_sampled:],
            winners_A=winners_A if len(ahead_A) else None,
        )

    # What follows is mostly the same from step to step, and then left as it is.

    def _set_sequences(self, states_R: Sequence[SequenceState]) -> None:
        if states_R != self._states_R:
            self._states_R = list(states_R)
            self._temperatures_R = np.array([state.params.temperature for state in states_R], dtype=np.float32)
            self._seeds_R = np.array([state.params.seed_bits for state in states_R], dtype=np.int64)
            self._call.temperatures, self._call.seeds = _address(self._temperatures_R), _address(self._seeds_R)

    def _set_lists(self, num_positions: int, lengths: ListLengths) -> None:
        if (num_positions, lengths) != self._lists:
            self._lists = num_positions, lengths
            cut = [min(length, self._decoder.head.rows) for length in lengths]
            self._call.num_noised, self._call.num_top, self._call.num_raw = cut
            self._starts = list_starts(num_positions, cut)
            self._records = np.empty(self._starts[-1], dtype="<i4")  # ids are int32, all else float32
            self._call.records = _address(self._records)

    def _set_tables(self, rows: Rows) -> None:
        if rows.block_tables is not self._block_tables:
            self._block_tables = rows.block_tables
            self._call.blocks = _address(rows.block_tables)


class _Steps(Sequence[Resolvable]):
    """What Resolve may ask of each pass, made when it asks. The logits are float32[n, P, V]."""

    def __init__(
        self, rows: Rows, states_R: Sequence[SequenceState], logits_nPV: Floats, decoder: NativeDecoder
    ) -> None:
        self._rows, self._states_R, self._logits_nPV, self._decoder = rows, states_R, logits_nPV, decoder

    def __len__(self) -> int:
        return len(self._logits_nPV)

    @overload
    def __getitem__(self, index: int) -> UndrawnStep: ...

    @overload
    def __getitem__(self, index: slice) -> list[Resolvable]: ...

    def __getitem__(self, index: int | slice) -> UndrawnStep | list[Resolvable]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        states_P, positions_P = sampled_positions(self._rows, self._states_R)
        logits_PV, positions_P = torch.from_numpy(self._logits_nPV[index]), [at + index for at in positions_P]
        return UndrawnStep(logits_PV, states_P, positions_P, self._decoder.first_id, self._decoder.trimmed)


def _address(array: npt.NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # quicker than array.ctypes, which is Python
    return address
