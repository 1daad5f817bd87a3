"""Every way in which a plan can be wrong, as changes to a good one."""

from collections.abc import Callable, Sequence
from math import inf, nan
from typing import Any

from common.arrays import F32, I32, U32, to_wire
from shard_worker.plan import Bounds
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.plans import PlanRow, greedy_open, make_plan

Change = Callable[[pb.Plan], object]

ROW_FIELDS = ("row_sequences", "row_base_lengths", "row_lengths", "row_sampled", "row_scored", "row_blocks")
LIST_FIELDS = ("token_ids", "block_tables", "scored_ids")


def good_plan() -> pb.Plan:
    """Return a plan of two rows, one sampled and one scored, that opens its own sequences."""
    rows = [
        PlanRow(1, 0, [5, 6, 7, 8, 9], [3], sampled=1),
        PlanRow(2, 16, [1, 2, 3], [7, 9], scored_ids=[4, 4]),
    ]
    return make_plan(rows, [greedy_open(1), greedy_open(2)])


def bad_rows(bounds: Bounds) -> dict[str, Change]:
    """Return changes that a look at the plan alone shows to be wrong, by name."""
    big = 2**32 - 1
    enough_blocks = -(-bounds.context_length // bounds.block_size) + 1
    cases: dict[str, Change] = {"no rows": lambda plan: plan.CopyFrom(pb.Plan(num_noised=1))}
    for name in ROW_FIELDS + LIST_FIELDS:
        cases[f"{name} is empty"] = _set(name, b"")
        cases[f"{name} has half an entry more"] = _grow(name, b"\0\0")
        cases[f"{name} has an entry more"] = _grow(name, b"\0\0\0\0")
        cases[f"{name} lacks an entry"] = _cut(name, 4)
        cases[f"{name} lacks a byte"] = _cut(name, 1)
    cases |= {
        "two rows share a sequence": _u32("row_sequences", [1, 1]),
        "a row has no ids": _u32("row_lengths", [8, 0]),
        "a row's length is huge": _u32("row_lengths", [5, big]),
        "all lengths are huge": _u32("row_lengths", [big, big]),
        "an id is negative": _i32("token_ids", [5, 6, 7, 8, -1, 1, 2, 3]),
        "an id is beyond the vocabulary": _i32("token_ids", [5, 6, 7, 8, bounds.vocabulary_size, 1, 2, 3]),
        "a scored id is negative": _i32("scored_ids", [4, -1]),
        "a scored id is beyond the vocabulary": _i32("scored_ids", [4, bounds.vocabulary_size]),
        "a block is negative": _i32("block_tables", [3, 7, -1]),
        "a block is beyond the cache": _i32("block_tables", [3, 7, bounds.num_blocks]),
        "a base is beyond its table": _u32("row_base_lengths", [bounds.block_size, 16]),
        "a row ends beyond its table": _u32("row_base_lengths", [bounds.block_size - 4, 16]),
        "a base is huge": _u32("row_base_lengths", [0, big]),
        "a row ends beyond the context": _row_at(bounds.context_length - 2, enough_blocks),
        "more ids than a step may have": _step_of(bounds.max_step_tokens + 1, bounds.block_size),
        "more sampled than ids": _u32("row_sampled", [6, 0]),
        "sampled is huge": _u32("row_sampled", [big, 0]),
        "more scored than ids": _scored_beyond,
        "scored is huge": _u32("row_scored", [0, big]),
        "run ahead lacks an entry": _u32("row_run_ahead", [1]),
        "run ahead by two": _u32("row_run_ahead", [2, 0]),
        "run ahead is huge": _u32("row_run_ahead", [big, 0]),
        "run ahead of what is not sampled": _u32("row_run_ahead", [0, 1]),
        "run ahead beyond the table": _full_row_ahead(bounds.block_size),
        "continued lacks an entry": _u32("row_continued", [1]),
        "continued beside what is not a decode": _u32("row_continued", [0, 1]),
        "continued with a row that is scored": _u32("row_continued", [1, 1]),
        "continued in different ways": _decodes([1, 2]),
        "continued too often": _decodes([16, 16]),
        "continued is huge": _decodes([big, big]),
        "continued beyond the table": _decodes([12, 12]),
        "continued within the table, run ahead beyond it": _decodes([11, 11], ahead=1),
        "continued with drafts": _decodes([1, 1], drafts=1),
        "continued beyond the context": _continued_at(bounds.context_length - 3, enough_blocks),
        "blocks are huge": _u32("row_blocks", [1, big]),
        "no noised record for a sampled row": _set("num_noised", 0),
        "no raw record for a scored row": _set("num_scored_raw", 0),
    }
    return cases


def bad_sequences() -> dict[str, Change]:
    """Return changes that only what a rank knows of its sequences, or of sampling, shows to be wrong, by name."""

    def opening(**fields: Any) -> Change:
        return lambda plan: plan.opens[0].MergeFrom(pb.SequenceOpen(**fields))

    return {
        "a sequence was never opened": lambda plan: plan.opens.pop(),
        "a sequence is opened twice": lambda plan: plan.opens.append(plan.opens[0]),
        "closes has half an entry": _set("closes", b"\1\0"),
        "the temperature is negative": opening(temperature=-1.0),
        "the temperature is not a number": opening(temperature=nan),
        "the temperature is infinite": opening(temperature=inf),
        "the repetition penalty is negative": opening(repetition_penalty=-1.0),
        "the repetition penalty is infinite": opening(repetition_penalty=inf),
        "the presence penalty is not a number": opening(presence_penalty=nan),
        "the frequency penalty is infinite": opening(frequency_penalty=-inf),
        "bias_ids has half an entry": opening(bias_ids=b"\1\0"),
        "a bias has no value": opening(bias_ids=to_wire([3, 4], I32), bias_values=to_wire([1.0], F32)),
        "a bias is not a number": opening(bias_ids=to_wire([3], I32), bias_values=to_wire([nan], F32)),
        "history has half an entry": opening(presence_penalty=1.0, history=b"\1\0\0"),
        "the history is shorter than the base": lambda plan: plan.opens[1].MergeFrom(
            pb.SequenceOpen(presence_penalty=1.0, history=to_wire([1, 2], I32))
        ),
    }


def _set(name: str, value: object) -> Change:
    return lambda plan: setattr(plan, name, value)


def _full_row_ahead(block_size: int) -> Change:
    def change(plan: pb.Plan) -> None:
        plan.row_base_lengths = to_wire([block_size - 5, 16], U32)  # its five ids fill the block
        plan.row_run_ahead = to_wire([1, 0], U32)

    return change


def _decodes(continued: Sequence[int], ahead: int = 0, drafts: int = 0) -> Change:
    """Replace the rows by two decodes with room for 11 positions more."""
    ids = [1] * (1 + drafts)
    rows = [PlanRow(s, 4 - drafts, ids, [s], len(ids), (), ahead, more) for s, more in enumerate(continued)]
    return lambda plan: plan.CopyFrom(make_plan(rows, [greedy_open(0), greedy_open(1)]))


def _continued_at(base: int, blocks: int) -> Change:
    row = PlanRow(1, base, [1], list(range(blocks)), 1, continued=3)
    return lambda plan: plan.CopyFrom(make_plan([row], [greedy_open(1)]))


def _u32(name: str, values: Sequence[int]) -> Change:
    return _set(name, to_wire(values, U32))


def _i32(name: str, values: Sequence[int]) -> Change:
    return _set(name, to_wire(values, I32))


def _grow(name: str, more: bytes) -> Change:
    return lambda plan: setattr(plan, name, getattr(plan, name) + more)


def _cut(name: str, count: int) -> Change:
    return lambda plan: setattr(plan, name, getattr(plan, name)[:-count])


def _row_at(base: int, blocks: int) -> Change:
    """Replace the rows by one of three ids at `base`."""
    return lambda plan: plan.CopyFrom(make_plan([PlanRow(1, base, [1, 2, 3], list(range(blocks)))], [greedy_open(1)]))


def _step_of(tokens: int, block_size: int) -> Change:
    """Replace the rows by one of so many ids."""
    blocks = list(range(-(-tokens // block_size)))
    return lambda plan: plan.CopyFrom(make_plan([PlanRow(1, 0, [1] * tokens, blocks)], [greedy_open(1)]))


def _scored_beyond(plan: pb.Plan) -> None:
    plan.row_scored, plan.scored_ids = to_wire([0, 4], U32), to_wire([4] * 4, I32)
