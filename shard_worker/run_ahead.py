"""Run-ahead: the rows that the next plan will most likely hold, computed while the gateway still decides.

Which rows those are is the plan's word; which token each begins with, the records' winner: all ranks compute the same,
whatever the clock says. The next plan confirms a row by holding it, and kills it by not doing so. A row writes the
cache only beyond what its sequence had, so a dead one leaves nothing behind.
"""

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from operator import is_

import numpy as np
import torch
from torch import Tensor

from shard_worker.continuation import Drawn, ListLengths
from shard_worker.parallel import RankGroup
from shard_worker.passes import Passes
from shard_worker.plan import Counts, Floats, Ints, Rows
from shard_worker.sampling.state import SequenceState

# What is to be run ahead: rows, their sequences, and the lists that are drawn.
_Wanted = tuple[Rows, Seq[SequenceState], ListLengths]


@dataclass(frozen=True)
class AheadRows:
    """A rows of one id each that were computed unasked, and when that was.

    They came to logits, float32[A, V], or were drawn from at once by `states_A` in lists of `lengths`.
    """

    rows: Rows
    states_A: Seq[SequenceState]
    lengths: ListLengths
    came_to: Tensor | Drawn
    began_ns: int
    ended_ns: int
    collective_ns: int

    @property
    def logits_AV(self) -> Tensor:
        """Their logits."""
        return self.came_to.logits_PV if isinstance(self.came_to, Drawn) else self.came_to

    def answer(self, rows: Rows, states_R: Seq[SequenceState], lengths: ListLengths) -> Drawn | None:
        """Return what was drawn where it is what a plan wants: of the same rows, in order, in the same lists."""
        is_same = (
            lengths == self.lengths and len(states_R) == len(self.states_A) and all(map(is_, states_R, self.states_A))
        )
        if not is_same or not isinstance(self.came_to, Drawn):
            return None
        in_order = self.rows.equals(rows) or (self.find(rows) == np.arange(len(states_R))).all()
        return self.came_to if in_order else None

    def find(self, rows: Rows) -> Counts:
        """Return where each row of a plan lies here, or -1 where it does not, int64[R]."""
        at_A = {sequence: at for at, sequence in enumerate(self.rows.sequences_R.tolist())}
        found_R = np.full(len(rows.sequences_R), -1, dtype=np.int64)
        for row in np.flatnonzero((rows.lengths_R == 1) & (rows.sampled_R == 1) & (rows.scored_R == 0)).tolist():
            at = at_A.get(int(rows.sequences_R[row]), -1)
            if at >= 0 and self._same(at, rows, row):
                found_R[row] = at
        return found_R

    def _same(self, at: int, rows: Rows, row: int) -> bool:
        own, other = self.rows.block_table(at), rows.block_table(row)
        return (
            self.rows.base_lengths_R[at] == rows.base_lengths_R[row]
            and self.rows.ids_N[at] == rows.ids_N[rows.starts_R[row]]
            and np.array_equal(own[: len(other)], other[: len(own)])
        )


class RunAhead:
    """What a rank does once it has answered, until the next frame takes it. All calls come from the torch thread."""

    def __init__(self, passes: Passes, group: RankGroup, device: torch.device) -> None:
        self._passes, self._group, self._device = passes, group, device
        self._wanted: _Wanted | None = None
        self._done: AheadRows | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._wanted = self._done = None

    def take(self) -> AheadRows | None:
        """Return what was run ahead, once."""
        done, self._done = self._done, None
        return done

    def note(
        self, rows: Rows, states_R: Seq[SequenceState], lengths: ListLengths, drawn: Drawn, members_A: Counts
    ) -> None:
        """Note that these members of `rows` are to be run ahead, of which all passes came to `drawn`.

        Meets the other ranks if there are any members, and `drawn` has no winners.
        """
        self._wanted = None
        if len(members_A):
            states_A = [states_R[member] for member in members_A.tolist()]
            self._wanted = self.following(rows, members_A, drawn), states_A, lengths

    def following(self, rows: Rows, members_A: Counts, drawn: Drawn) -> Rows:
        """Return the rows that put the winners behind these members of `rows`. Meets the other ranks."""
        winners_A = drawn.winners_A  # of as many rows: of the very same ones, for it is some of `rows`, or all
        if winners_A is None or len(winners_A) != len(members_A):
            winners_A = self._merged(*drawn.best(rows, members_A))
        return rows.following(members_A, winners_A, drawn.num_passes)

    def run(self) -> None:
        """Compute what was noted, if anything was. Raises what the model raises."""
        if self._wanted is None:
            return
        began_ns = time.perf_counter_ns()
        (rows, states_A, lengths), self._wanted = self._wanted, None
        drawn = self._passes.run_at_once(rows, states_A, lengths, np.arange(len(states_A)))
        came_to = self._passes.computed(rows)[0] if drawn is None else drawn
        collective_ns = self._group.take_collective_ns()
        self._done = AheadRows(rows, states_A, lengths, came_to, began_ns, time.perf_counter_ns(), collective_ns)

    def _merged(self, ids_A: Ints, scores_A: Floats) -> Ints:
        """Return the ids with the best score over all slices, int32[A]; of equal ones the lowest."""
        world_size, rank = self._group.world_size, self._group.rank
        if world_size == 1:
            return ids_A
        part_WA2 = torch.zeros(world_size, len(ids_A), 2)
        part_WA2[rank, :, 0] = torch.from_numpy(scores_A.copy())
        part_WA2[rank, :, 1] = torch.from_numpy(ids_A.astype(np.float32))  # exact up to 2^24
        all_WA2 = self._group.all_reduce(part_WA2.to(self._device)).cpu().numpy()
        first_A = all_WA2[:, :, 0].argmax(axis=0)  # slices lie in the order of the ranks
        winners: Ints = all_WA2[first_A, np.arange(len(ids_A)), 1].astype(np.int32)
        return winners
