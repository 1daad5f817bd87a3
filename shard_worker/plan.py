"""A frame's plan, read and checked: from here on its numbers can be trusted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.arrays import I32, U32, from_wire
from common.errors import Refused
from common.step_protocol import MAX_CONTINUED_PASSES
from tandem.shard.v1 import shard_service_pb2 as pb

Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Bounds:
    """What a rank can take."""

    num_blocks: int
    block_size: int
    vocabulary_size: int
    context_length: int
    max_step_tokens: int


@dataclass(frozen=True)
class Rows:
    """R rows of a step, N token ids in all; see tandem.shard.v1.Plan for the meaning of each."""

    sequences_R: Counts
    base_lengths_R: Counts
    lengths_R: Counts
    sampled_R: Counts
    scored_R: Counts
    ids_N: Ints
    blocks_R: Counts
    block_tables: Ints
    scored_ids_S: Ints
    run_ahead_R: Counts
    continued_R: Counts

    @property
    def num_continued(self) -> int:
        """By how many passes the step is continued."""
        return int(self.continued_R[0]) if len(self.continued_R) else 0

    @property
    def starts_R(self) -> Counts:
        """Index of each row's first token in the step."""
        return starts(self.lengths_R)

    @property
    def ends_R(self) -> Counts:
        """Number of positions of each row's sequence after the step."""
        return self.base_lengths_R + self.lengths_R

    def block_table(self, row: int) -> Ints:
        """Return a row's block table."""
        start = int(self.blocks_R[:row].sum())
        return self.block_tables[start : start + int(self.blocks_R[row])]

    def select(self, members_S: Counts) -> "Rows":
        """Return the rows of these indices alone, which ascend."""
        return Rows(
            sequences_R=self.sequences_R[members_S],
            base_lengths_R=self.base_lengths_R[members_S],
            lengths_R=self.lengths_R[members_S],
            sampled_R=self.sampled_R[members_S],
            scored_R=self.scored_R[members_S],
            ids_N=_parts(self.ids_N, self.lengths_R, members_S),
            blocks_R=self.blocks_R[members_S],
            block_tables=_parts(self.block_tables, self.blocks_R, members_S),
            scored_ids_S=_parts(self.scored_ids_S, self.scored_R, members_S),
            run_ahead_R=self.run_ahead_R[members_S],
            continued_R=self.continued_R[members_S],
        )

    def following(self, members_A: Counts, ids_A: Ints, num_passes: int = 1) -> "Rows":
        """Return the rows that follow these after so many passes: one id each, to be sampled; continued less often."""
        rows = self if len(members_A) == len(self.sequences_R) else self.select(members_A)
        ones_A = np.ones(len(members_A), dtype=np.int64)
        return Rows(
            sequences_R=rows.sequences_R,
            base_lengths_R=rows.ends_R + (num_passes - 1),
            lengths_R=ones_A,
            sampled_R=ones_A,
            scored_R=ones_A - 1,
            ids_N=ids_A,
            blocks_R=rows.blocks_R,
            block_tables=rows.block_tables,
            scored_ids_S=self.scored_ids_S[:0],
            run_ahead_R=rows.run_ahead_R,
            continued_R=np.maximum(rows.continued_R - num_passes, 0),
        )

    def equals(self, other: "Rows") -> bool:
        """Return whether another step's rows are these, whatever is to be run ahead or continued."""
        return all(
            getattr(self, name).tobytes() == getattr(other, name).tobytes()
            for name in ("ids_N", "base_lengths_R", "sequences_R", "lengths_R", "sampled_R", "scored_R", "block_tables")
        )


class RowReader:
    """Reads the plans of a stream, one after the other. All calls come from one thread.

    Most are decodes that differ from the plan before in where the rows begin and in their ids: what is the same is
    neither read nor checked anew.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._read: tuple[bytes, ...] = ()
        self._shapes = _shapes(pb.Plan(), bounds)

    def __call__(self, plan: pb.Plan) -> Rows:
        """Return the plan's rows. Raises Refused (BAD_PLAN) for anything a rank cannot compute."""
        fields = (
            plan.row_sequences, plan.row_lengths, plan.row_sampled, plan.row_scored, plan.row_blocks,
            plan.block_tables, plan.row_run_ahead, plan.row_continued,
        )  # fmt: skip
        if fields != self._read:
            self._shapes, self._read = _shapes(plan, self._bounds), fields
        shapes, size = self._shapes, self._bounds.vocabulary_size
        base_lengths_R = _counts(plan.row_base_lengths, len(shapes.most_base_R), "row_base_lengths")
        ids_N = from_wire(plan.token_ids, I32, (-1,), "token_ids")
        scored_ids_S = from_wire(plan.scored_ids, I32, (-1,), "scored_ids")
        _require(len(base_lengths_R) > 0 or len(plan.closes) > 0, "no rows")
        _require(len(ids_N) == shapes.num_ids, "token_ids do not match row_lengths")
        _require(len(scored_ids_S) == shapes.num_scored, "scored_ids do not match row_scored")
        _require((base_lengths_R <= shapes.most_base_R).all(), "a row beyond the context, or beyond its block table")
        _require(_inside(ids_N, size), "a token id outside the vocabulary")
        _require(not shapes.num_scored or _inside(scored_ids_S, size), "a scored id outside the vocabulary")
        _require(plan.num_noised >= 1 or not shapes.num_sampled, "num_noised is 0")
        _require(plan.num_scored_raw >= 1 or not shapes.num_scored, "num_scored_raw is 0")
        return shapes.rows_at(base_lengths_R, ids_N, scored_ids_S)


def read_rows(plan: pb.Plan, bounds: Bounds) -> Rows:
    """Return the rows of one plan, as RowReader does."""
    return RowReader(bounds)(plan)


@dataclass(frozen=True)
class _Shapes:
    """Checked rows that have no base lengths and ids yet, how many ids they want, and how far each may begin."""

    rows: Rows
    num_ids: int
    num_sampled: int
    num_scored: int
    most_base_R: Counts

    def rows_at(self, base_lengths_R: Counts, ids_N: Ints, scored_ids_S: Ints) -> Rows:
        """Return the rows with these."""
        rows = self.rows
        return Rows(
            rows.sequences_R, base_lengths_R, rows.lengths_R, rows.sampled_R, rows.scored_R, ids_N, rows.blocks_R,
            rows.block_tables, scored_ids_S, rows.run_ahead_R, rows.continued_R,
        )  # fmt: skip


def _shapes(plan: pb.Plan, bounds: Bounds) -> _Shapes:
    """Read what a plan says of its rows' shapes. Raises Refused (BAD_PLAN)."""
    count = len(plan.row_sequences) // 4

    def counts(name: str, or_zeros: bool = False) -> Counts:
        data = getattr(plan, name)
        return np.zeros(count, dtype=np.int64) if or_zeros and not data else _counts(data, count, name)

    none = np.empty(0, dtype=np.int32)
    rows = Rows(
        sequences_R=counts("row_sequences"),
        base_lengths_R=np.zeros(count, dtype=np.int64),
        lengths_R=counts("row_lengths"),
        sampled_R=counts("row_sampled"),
        scored_R=counts("row_scored"),
        ids_N=none,
        blocks_R=counts("row_blocks"),
        block_tables=from_wire(plan.block_tables, I32, (-1,), "block_tables"),
        scored_ids_S=none,
        run_ahead_R=counts("row_run_ahead", or_zeros=True),
        continued_R=counts("row_continued", or_zeros=True),
    )
    num_ids = int(rows.lengths_R.sum())
    _require(len(set(rows.sequences_R.tolist())) == count, "two rows share a sequence")
    _require((rows.lengths_R > 0).all(), "a row without token ids")
    _require(num_ids <= bounds.max_step_tokens, f"more than {bounds.max_step_tokens} token ids")
    _require((rows.sampled_R <= rows.lengths_R).all(), "row_sampled exceeds row_lengths")
    _require((rows.scored_R <= rows.lengths_R).all(), "row_scored exceeds row_lengths")
    _require(rows.blocks_R.sum() == len(rows.block_tables), "block_tables do not match row_blocks")
    _require((rows.run_ahead_R <= (rows.sampled_R == 1)).all(), "row_run_ahead: 0, or 1 for a row sampled once")
    _require_continuable(rows)
    _require(_inside(rows.block_tables, bounds.num_blocks), "a block outside the cache")
    room_R = np.minimum(rows.blocks_R * bounds.block_size, bounds.context_length)
    most_base_R = room_R - rows.lengths_R - rows.continued_R - rows.run_ahead_R
    return _Shapes(rows, num_ids, int(rows.sampled_R.sum()), int(rows.scored_R.sum()), most_base_R)


def _require_continuable(rows: Rows) -> None:
    passes = int(rows.continued_R.max(initial=0))
    _require(bool((rows.continued_R == passes).all()), "row_continued differs between rows")
    _require(passes <= MAX_CONTINUED_PASSES, f"row_continued exceeds {MAX_CONTINUED_PASSES}")
    are_drawn = (rows.sampled_R == 1) & (rows.scored_R == 0)
    _require(not passes or bool(are_drawn.all()), "row_continued: only for rows sampled once, not scored")


def starts(lengths: Counts) -> Counts:
    """Return where each of these parts begins, one lying after the other."""
    return np.cumsum(lengths) - lengths


def ranges(firsts: Counts, lengths: Counts) -> Counts:
    """Return first, first + 1, ... for each pair, one after the other."""
    offsets = np.arange(int(lengths.sum())) - np.repeat(starts(lengths), lengths)
    return np.repeat(firsts, lengths) + offsets


def _parts(values: Ints, lengths: Counts, members: Counts) -> Ints:
    return values[ranges(starts(lengths)[members], lengths[members])]


def _counts(data: bytes, count: int, name: str) -> Counts:
    values: Counts = from_wire(data, U32, (count,), name).astype(np.int64)
    return values


def _inside(ids: Ints, size: int) -> bool:
    return bool((ids.view(np.uint32) < size).all())  # those below 0 are huge there


def _require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise Refused("BAD_PLAN", message)
