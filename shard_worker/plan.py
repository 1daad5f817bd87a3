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

    @property
    def starts_R(self) -> Counts:
        """Index of each row's first token in the step."""
        return np.cumsum(self.lengths_R) - self.lengths_R


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
    )
    ends = rows.base_lengths_R + rows.lengths_R
    _require(count > 0, "no rows")
    _require(len(np.unique(rows.sequences_R)) == count, "two rows share a sequence")
    _require(bool((rows.lengths_R > 0).all()), "a row without token ids")
    _require(rows.lengths_R.sum() == len(rows.ids_N), "token_ids do not match row_lengths")
    _require(len(rows.ids_N) <= bounds.max_step_tokens, f"more than {bounds.max_step_tokens} token ids")
    _require(bool((ends <= bounds.context_length).all()), f"a row beyond position {bounds.context_length}")
    _require(bool((rows.sampled_R <= rows.lengths_R).all()), "row_sampled exceeds row_lengths")
    _require(bool((rows.scored_R <= rows.lengths_R).all()), "row_scored exceeds row_lengths")
    _require(rows.blocks_R.sum() == len(rows.block_tables), "block_tables do not match row_blocks")
    _require(bool((rows.blocks_R * bounds.block_size >= ends).all()), "a block table too short for its row")
    _require(rows.scored_R.sum() == len(rows.scored_ids_S), "scored_ids do not match row_scored")
    _require(_inside(rows.ids_N, bounds.vocabulary_size), "a token id outside the vocabulary")
    _require(_inside(rows.scored_ids_S, bounds.vocabulary_size), "a scored id outside the vocabulary")
    _require(_inside(rows.block_tables, bounds.num_blocks), "a block outside the cache")
    _require(plan.num_noised >= 1 or not rows.sampled_R.any(), "num_noised is 0")
    _require(plan.num_scored_raw >= 1 or not rows.scored_R.any(), "num_scored_raw is 0")
    return rows


def _inside(ids: Ints, size: int) -> bool:
    return not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < size)


def _require(holds: bool | np.bool_, message: str) -> None:
    if not holds:
        raise Refused("BAD_PLAN", message)
