"""Building a step's Plan from rows, and merging what the ranks answer to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from common.arrays import F32, I32, U32, from_wire, to_wire
from tandem.shard.v1 import shard_service_pb2 as pb

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PlanRow:
    """One row: sequence s, from base length b, these ids, these blocks; report on its last positions."""

    sequence: int
    base_length: int
    ids: Sequence[int]
    blocks: Sequence[int]
    sampled: int = 0
    scored_ids: Sequence[int] = ()
    run_ahead: int = 0
    continued: int = 0


def greedy_open(sequence: int) -> pb.SequenceOpen:
    """Return the opening of a sequence that is drawn greedily, nothing processed."""
    return pb.SequenceOpen(sequence=sequence, repetition_penalty=1.0)


def make_plan(
    rows: Sequence[PlanRow],
    opens: Iterable[pb.SequenceOpen] = (),
    closes: Sequence[int] = (),
    num_noised: int = 2,
    num_raw: int = 0,
) -> pb.Plan:
    """Return the Plan of these rows."""

    def flat(parts: Iterable[Sequence[int]]) -> list[int]:
        return [value for part in parts for value in part]

    return pb.Plan(
        opens=opens,
        closes=to_wire(closes, U32),
        row_sequences=to_wire([row.sequence for row in rows], U32),
        row_base_lengths=to_wire([row.base_length for row in rows], U32),
        row_lengths=to_wire([len(row.ids) for row in rows], U32),
        row_sampled=to_wire([row.sampled for row in rows], U32),
        row_scored=to_wire([len(row.scored_ids) for row in rows], U32),
        token_ids=to_wire(flat(row.ids for row in rows), I32),
        row_blocks=to_wire([len(row.blocks) for row in rows], U32),
        block_tables=to_wire(flat(row.blocks for row in rows), I32),
        scored_ids=to_wire(flat(row.scored_ids for row in rows), I32),
        num_noised=num_noised,
        num_raw=num_raw,
        num_scored_raw=1,
        row_run_ahead=to_wire([row.run_ahead for row in rows], U32),
        row_continued=to_wire([row.continued for row in rows], U32),
    )


def merged_greedy(results: Sequence[pb.StepResult]) -> list[int]:
    """Return the id with the highest noised score at each sampled position, ties to the lowest id."""
    ids = _merged(results, "noised_ids", I32)
    scores = _merged(results, "noised_scores", F32)
    return [min(zip(-s, i, strict=True))[1].item() for s, i in zip(scores, ids, strict=True)]


def merged_raw(results: Sequence[pb.StepResult]) -> tuple[Ints, Floats]:
    """Return the ids and raw logits reported at each sampled position, both [positions, all ranks' lists]."""
    return _merged(results, "raw_ids", I32), _merged(results, "raw_logits", F32)


def merged_scores(results: Sequence[pb.StepResult]) -> Floats:
    """Return the log-probability of each scored id."""
    logits = np.stack([from_wire(result.scored_logits, F32, (-1,), "scored_logits") for result in results])
    lses = np.stack([from_wire(result.scored_lse, F32, (-1,), "scored_lse") for result in results])
    scores: Floats = logits.max(axis=0) - np.logaddexp.reduce(lses, axis=0)
    return scores


def merged_rows(slices: Sequence[pb.Resolved]) -> Floats:
    """Return the raw logits of the whole vocabulary at a resolved position."""
    parts = sorted(slices, key=lambda part: part.first_id)
    rows = [from_wire(part.raw, F32, (-1,), "raw") for part in parts]
    assert [part.first_id for part in parts] == [sum(map(len, rows[:rank])) for rank in range(len(rows))]
    return np.concatenate(rows)


def _merged(results: Sequence[pb.StepResult], field: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    positions = len(results[0].raw_lse) // 4
    if not positions:
        return np.empty((0, 0), dtype)
    return np.concatenate([from_wire(getattr(r, field), dtype, (positions, -1), field) for r in results], axis=1)
