"""A step of several passes: each pass's records and slices, as one step's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from common.arrays import F32, I32, from_wire
from shard_worker.plan import Counts, Floats, Ints, Rows, starts
from shard_worker.sampling.records import PackedRecords, Resolvable, ResolvedSlice
from shard_worker.sampling.state import SequenceState


class ListLengths(NamedTuple):
    """How many tokens of each kind a plan wants listed at a sampled position."""

    num_noised: int
    num_top: int
    num_raw: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What n passes over the same R rows came to; n > 1 only of rows that are sampled once each.

    records: of all sampled positions, those of a row's passes side by side; without fields where there are none.
    steps: what Resolve may ask of each pass; empty where nothing is sampled.
    hidden_SM: the hidden states of the scored positions.
    winners_A: the last pass's winners of the rows to be run ahead, over all slices; None where they are not merged yet.
    """

    records: PackedRecords
    steps: tuple[Resolvable, ...]
    num_passes: int
    hidden_SM: Tensor
    winners_A: Ints | None = None

    def then(self, later: "Drawn", num_rows: int) -> "Drawn":
        """Return these passes and later ones over the same R rows, as one."""
        num_passes = self.num_passes + later.num_passes
        records = join((self.records, later.records), num_rows)
        return Drawn(records, (*self.steps, *later.steps), num_passes, self.hidden_SM, later.winners_A)

    def best(self, rows: Rows, members_A: Counts, num_noised: int) -> tuple[Ints, Floats]:
        """Return this slice's winners of the last pass over these members of `rows`, sampled once each: ids, scores."""
        last_A = (starts(rows.sampled_R)[members_A] + 1) * self.num_passes - 1
        ids = from_wire(self.records.fields["noised_ids"], I32, (-1, num_noised), "noised_ids")
        scores = from_wire(self.records.fields["noised_scores"], F32, (-1, num_noised), "noised_scores")
        return ids[last_A, 0], scores[last_A, 0]

    @property
    def last_step(self) -> Resolvable | None:
        """What Resolve may ask for, of all passes."""
        return ContinuedStep(self.steps) if len(self.steps) > 1 else next(iter(self.steps), None)


@dataclass(frozen=True, slots=True)
class ContinuedStep:
    """What Resolve may ask for, of n passes: sampled position p lies in pass p % n, at its position p // n."""

    passes: Sequence[Resolvable]

    def resolve(self, position: int) -> ResolvedSlice:
        """As LastStep.resolve."""
        return self.passes[position % len(self.passes)].resolve(position // len(self.passes))


def join(passes: Sequence[PackedRecords], num_rows: int) -> PackedRecords:
    """Return the records of passes over the same R rows, sampled once in each, in row order."""

    def joined(name: str) -> bytes:
        parts = [np.frombuffer(records.fields[name], dtype="<i4").reshape(num_rows, -1) for records in passes]
        return np.concatenate(parts, axis=1).tobytes()

    return PackedRecords({name: joined(name) for name in passes[0].fields})


def sampled_positions(rows: Rows, states_R: Sequence[SequenceState]) -> tuple[list[SequenceState], list[int]]:
    """Return the sequence of each sampled position, and the absolute position of the token that is drawn there."""
    states: list[SequenceState] = []
    positions: list[int] = []
    for state, end, count in zip(states_R, rows.ends_R.tolist(), rows.sampled_R.tolist(), strict=True):
        # A row's last token, at position end - 1, draws the token at position `end`.
        states += [state] * count
        positions += range(end - count + 1, end + 1)
    return states, positions
