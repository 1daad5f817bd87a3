"""A frame's plan, read and checked: from here on its numbers can be trusted."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from common.arrays import I32, U32, from_wire
from common.errors import Refused
from tandem.shard.v1 import shard_service_pb2 as pb

Ints = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]


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
        )

    def following(self, members_A: Counts, ids_A: Ints) -> "Rows":
        """Return the rows that follow these: one id each, at the row's end, to be sampled."""
        ones_A = np.ones(len(members_A), dtype=np.int64)
        return Rows(
            sequences_R=self.sequences_R[members_A],
            base_lengths_R=self.ends_R[members_A],
            lengths_R=ones_A,
            sampled_R=ones_A,
            scored_R=ones_A * 0,
            ids_N=ids_A,
            blocks_R=self.blocks_R[members_A],
            block_tables=_parts(self.block_tables, self.blocks_R, members_A),
            scored_ids_S=self.scored_ids_S[:0],
            run_ahead_R=ones_A * 0,
        )


def read_rows(plan: pb.Plan, bounds: Bounds) -> Rows:
    """Return the plan's rows. Raises Refused (BAD_PLAN) for anything a rank cannot compute."""
    count = len(plan.row_sequences) // 4

    def counts(name: str) -> Counts:
        values: Counts = from_wire(getattr(plan, name), U32, (count,), name).astype(np.int64)
        return values

    rows = Rows(
        sequences_R=counts("row_sequences"),
        base_lengths_R=counts("row_base_lengths"),
        lengths_R=counts("row_lengths"),
        sampled_R=counts("row_sampled"),
        scored_R=counts("row_scored"),
        ids_N=from_wire(plan.token_ids, I32, (-1,), "token_ids"),
        blocks_R=counts("row_blocks"),
        block_tables=from_wire(plan.block_tables, I32, (-1,), "block_tables"),
        scored_ids_S=from_wire(plan.scored_ids, I32, (-1,), "scored_ids"),
        run_ahead_R=counts("row_run_ahead") if plan.row_run_ahead else np.zeros(count, dtype=np.int64),
    )
    reach = rows.ends_R + rows.run_ahead_R
    _require(count > 0 or len(plan.closes) > 0, "no rows")
    _require(len(np.unique(rows.sequences_R)) == count, "two rows share a sequence")
    _require(bool((rows.lengths_R > 0).all()), "a row without token ids")
    _require(rows.lengths_R.sum() == len(rows.ids_N), "token_ids do not match row_lengths")
    _require(len(rows.ids_N) <= bounds.max_step_tokens, f"more than {bounds.max_step_tokens} token ids")
    _require(bool((reach <= bounds.context_length).all()), f"a row beyond position {bounds.context_length}")
    _require(bool((rows.sampled_R <= rows.lengths_R).all()), "row_sampled exceeds row_lengths")
    _require(bool((rows.scored_R <= rows.lengths_R).all()), "row_scored exceeds row_lengths")
    _require(rows.blocks_R.sum() == len(rows.block_tables), "block_tables do not match row_blocks")
    _require(bool((rows.blocks_R * bounds.block_size >= reach).all()), "a block table too short for its row")
    _require(rows.scored_R.sum() == len(rows.scored_ids_S), "scored_ids do not match row_scored")
    _require(bool((rows.run_ahead_R <= (rows.sampled_R == 1)).all()), "row_run_ahead: 0, or 1 for a row sampled once")
    _require(_inside(rows.ids_N, bounds.vocabulary_size), "a token id outside the vocabulary")
    _require(_inside(rows.scored_ids_S, bounds.vocabulary_size), "a scored id outside the vocabulary")
    _require(_inside(rows.block_tables, bounds.num_blocks), "a block outside the cache")
    _require(plan.num_noised >= 1 or not rows.sampled_R.any(), "num_noised is 0")
    _require(plan.num_scored_raw >= 1 or not rows.scored_R.any(), "num_scored_raw is 0")
    return rows


def starts(lengths: Counts) -> Counts:
    """Return where each of these parts begins, one lying after the other."""
    return np.cumsum(lengths) - lengths


def ranges(firsts: Counts, lengths: Counts) -> Counts:
    """Return first, first + 1, ... for each pair, one after the other."""
    offsets = np.arange(int(lengths.sum())) - np.repeat(starts(lengths), lengths)
    return np.repeat(firsts, lengths) + offsets


def _parts(values: Ints, lengths: Counts, members: Counts) -> Ints:
    return values[ranges(starts(lengths)[members], lengths[members])]


def _inside(ids: Ints, size: int) -> bool:
    return not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < size)


def _require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise Refused("BAD_PLAN", message)
