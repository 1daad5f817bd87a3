"""Reading a plan: what was written comes back, and nothing that cannot be computed comes through."""

from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Refused
from shard_worker.plan import Bounds, read_rows
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.bad_plans import bad_rows, good_plan
from tests.support.plans import PlanRow, make_plan

BOUNDS = Bounds(num_blocks=40, block_size=16, vocabulary_size=263, context_length=300, max_step_tokens=64)
BAD_ROWS = bad_rows(BOUNDS)


@st.composite
def rows(draw: st.DrawFn) -> list[PlanRow]:
    """Rows that a rank with these bounds can compute."""
    sequences = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6, unique=True))
    token_ids = st.integers(0, BOUNDS.vocabulary_size - 1)
    made = []
    for sequence in sequences:
        ids = draw(st.lists(token_ids, min_size=1, max_size=BOUNDS.max_step_tokens // len(sequences)))
        base = draw(st.integers(0, BOUNDS.context_length - len(ids)))
        least = -(-(base + len(ids)) // BOUNDS.block_size)
        blocks = draw(st.lists(st.integers(0, BOUNDS.num_blocks - 1), min_size=least, max_size=least + 2))
        scored = draw(st.lists(token_ids, max_size=len(ids)))
        made.append(PlanRow(sequence, base, ids, blocks, draw(st.integers(0, len(ids))), scored))
    return made


@settings(max_examples=60, deadline=None)
@given(rows())
def test_rows_come_back(made: list[PlanRow]) -> None:
    read = read_rows(pb.Plan.FromString(make_plan(made).SerializeToString()), BOUNDS)
    assert read.sequences_R.tolist() == [row.sequence for row in made]
    assert read.base_lengths_R.tolist() == [row.base_length for row in made]
    assert read.lengths_R.tolist() == [len(row.ids) for row in made]
    assert read.sampled_R.tolist() == [row.sampled for row in made]
    assert read.scored_R.tolist() == [len(row.scored_ids) for row in made]
    assert read.blocks_R.tolist() == [len(row.blocks) for row in made]
    assert read.ids_N.tolist() == [id for row in made for id in row.ids]
    assert read.block_tables.tolist() == [block for row in made for block in row.blocks]
    assert read.scored_ids_S.tolist() == [id for row in made for id in row.scored_ids]
    assert read.starts_R.tolist() == [0, *accumulate(len(row.ids) for row in made)][:-1]


def test_the_good_plan_is_good() -> None:
    assert len(read_rows(good_plan(), BOUNDS).sequences_R) == 2


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_refused(name: str) -> None:
    plan = good_plan()
    BAD_ROWS[name](plan)
    with pytest.raises(Refused) as caught:
        read_rows(plan, BOUNDS)
    assert caught.value.reason == "BAD_PLAN"


def test_decodes_may_be_continued_up_to_the_end_of_their_tables() -> None:
    rows = read_rows(make_plan([PlanRow(s, 4, [1], [s], 1, (), 1, 10) for s in range(2)]), BOUNDS)
    assert rows.continued_R.tolist() == [10, 10]


def test_the_last_position_of_everything_is_good() -> None:
    blocks = list(range(21, 40))
    row = PlanRow(2**32 - 1, 297, [0, 262, 0], blocks, 3, [262, 0, 262])
    assert read_rows(make_plan([row]), BOUNDS).ids_N.tolist() == [0, 262, 0]
    full = PlanRow(0, 0, [1] * 64, [39, 38, 37, 36])
    assert len(read_rows(make_plan([full]), BOUNDS).ids_N) == 64
