"""Run-ahead: the rows that the next plan will most likely hold, computed while the gateway still decides.

Which rows those are is the plan's word; which token each begins with, the records' winner: all ranks compute the same,
whatever the clock says. The next plan confirms a row by holding it, and kills it by not doing so. A row writes the
cache only beyond what its sequence had, so a dead one leaves nothing behind.
"""

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.arrays import F32, I32, from_wire
from shard_worker.forward import Forward
from shard_worker.parallel import RankGroup
from shard_worker.plan import Counts, Ints, Rows, starts
from shard_worker.sampling.records import PackedRecords


@dataclass(frozen=True)
class AheadRows:
    """A rows of one id each that were computed unasked, their logits float32[A, V], and when that was."""

    rows: Rows
    logits_AV: Tensor
    began_ns: int
    ended_ns: int
    collective_ns: int

    def find(self, rows: Rows) -> Counts:
        """Return where each row of a plan lies here, or -1 where it does not, int64[R]."""
        at_A = {int(sequence): at for at, sequence in enumerate(self.rows.sequences_R)}
        found_R = np.full(len(rows.sequences_R), -1, dtype=np.int64)
        for row in np.flatnonzero((rows.lengths_R == 1) & (rows.sampled_R == 1) & (rows.scored_R == 0)):
            at = at_A.get(int(rows.sequences_R[row]), -1)
            if at >= 0 and self._same(at, rows, int(row)):
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

    def __init__(self, forward: Forward, group: RankGroup) -> None:
        self._forward = forward
        self._group = group
        self._wanted: Rows | None = None
        self._done: AheadRows | None = None

    def clear(self) -> None:
        """Forget everything."""
        self._wanted = self._done = None

    def take(self) -> AheadRows | None:
        """Return what was run ahead, once."""
        done, self._done = self._done, None
        return done

    def note(self, rows: Rows, sampled: Seq[PackedRecords], num_noised: int) -> None:
        """Note what `rows`, whose records are `sampled`, want to be run ahead. Meets the other ranks if any do."""
        members_A = np.flatnonzero(rows.run_ahead_R)
        self._wanted = self.following(rows, members_A, sampled[0], num_noised) if len(members_A) else None

    def following(self, rows: Rows, members_A: Counts, sampled: PackedRecords, num_noised: int) -> Rows:
        """Return the rows that put the winners behind these members of `rows`. Meets the other ranks."""
        position_A = starts(rows.sampled_R)[members_A]
        shape = (-1, min(num_noised, self._forward.slice_size))
        ids_A = from_wire(sampled.fields["noised_ids"], I32, shape, "noised_ids")[position_A, 0]
        scores_A = from_wire(sampled.fields["noised_scores"], F32, shape, "noised_scores")[position_A, 0]
        return rows.following(members_A, self._winners(ids_A, scores_A))

    def run(self) -> None:
        """Compute what was noted, if anything was. Raises what the model raises."""
        if self._wanted is None:
            return
        began_ns = time.perf_counter_ns()
        rows, self._wanted = self._wanted, None
        logits_AV = self._forward.logits(self._forward.hidden(rows))
        collective_ns = self._group.take_collective_ns()
        self._done = AheadRows(rows, logits_AV, began_ns, time.perf_counter_ns(), collective_ns)

    def _winners(self, ids_A: Ints, scores_A: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Ints:
        """Return the ids with the best score over all slices, int32[A]; of equal ones the lowest."""
        world_size, rank = self._group.world_size, self._group.rank
        if world_size == 1:
            return ids_A
        part_WA2 = torch.zeros(world_size, len(ids_A), 2)
        part_WA2[rank, :, 0] = torch.from_numpy(scores_A.copy())
        part_WA2[rank, :, 1] = torch.from_numpy(ids_A.astype(np.float32))  # exact up to 2^24
        all_WA2 = self._group.all_reduce(part_WA2.to(self._forward.device)).cpu().numpy()
        first_A = all_WA2[:, :, 0].argmax(axis=0)  # slices lie in the order of the ranks
        winners: Ints = all_WA2[first_A, np.arange(len(ids_A)), 1].astype(np.int32)
        return winners
