"""A step of several passes: each pass's records and slices, as one step's."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
from torch import Tensor

from common.arrays import F32, I32, from_wire
from shard_worker.plan import Counts, Floats, Ints, Rows, starts
from shard_worker.sampling.records import PackedRecords, Resolvable, ResolvedSlice, UndrawnStep
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
    steps: what Resolve may ask of each pass, in parts that follow one another; empty where nothing is sampled.
    hidden_SM: the hidden states of the scored positions, float32.
    winners_A: the last pass's winners of the rows to be run ahead, over all slices; None where they are not merged yet.
    """

    records: PackedRecords
    steps: tuple[Sequence[Resolvable], ...]
    num_passes: int
    hidden_SM: Tensor | Floats
    winners_A: Ints | None = None

    def then(self, later: "Drawn", num_rows: int) -> "Drawn":
        """Return these passes and later ones over the same R rows, as one."""
        num_passes = self.num_passes + later.num_passes
        records = join((self.records, later.records), num_rows)
        return Drawn(records, (*self.steps, *later.steps), num_passes, self.hidden_SM, later.winners_A)

    def best(self, rows: Rows, members_A: Counts) -> tuple[Ints, Floats]:
        """Return this slice's winners of the last pass over these members of `rows`, sampled once each: ids, scores."""
        last_A = (starts(rows.sampled_R)[members_A] + 1) * self.num_passes - 1
        fields = self.records.fields
        shape = (len(fields["raw_lse"]) // 4, -1)
        ids = from_wire(fields["noised_ids"], I32, shape, "noised_ids")
        scores = from_wire(fields["noised_scores"], F32, shape, "noised_scores")
        return ids[last_A, 0], scores[last_A, 0]

    @property
    def logits_PV(self) -> Tensor:
        """The first pass's logits, float32[P, V]; only where they were drawn from as they are, in native code."""
        step = self.steps[0][0]
        assert isinstance(step, UndrawnStep)
        return step.raw_PV

    @property
    def last_step(self) -> Resolvable | None:
        """What Resolve may ask for, of all passes."""
        return ContinuedStep(self.steps) if self.steps else None


@dataclass(frozen=True, slots=True)
class ContinuedStep:
    """What Resolve may ask for, of n passes: sampled position p lies in pass p % n, at its position p // n."""

    parts: Sequence[Sequence[Resolvable]]

    def resolve(self, position: int) -> ResolvedSlice:
        """As LastStep.resolve."""
        num_passes = sum(map(len, self.parts))
        step = next(islice(chain.from_iterable(self.parts), position % num_passes, None))
        return step.resolve(position // num_passes)


def join(passes: Sequence[PackedRecords], num_rows: int) -> PackedRecords:
    """Return the records of passes over the same R rows, sampled once in each, in row order."""

    def joined(name: str) -> bytes:
        parts = [np.frombuffer(records.fields[name], dtype="<i4").reshape(num_rows, -1) for records in passes]
        data: bytes = np.concatenate(parts, axis=1).tobytes()
        return data

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
