"""The batch builder: rows become tensors that say the same, token by token."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shard_worker.batch import build_inputs
from shard_worker.model.llama import StepInputs
from shard_worker.plan import Bounds, read_rows
from tests.support.plans import PlanRow, make_plan

BOUNDS = Bounds(num_blocks=50, block_size=4, vocabulary_size=100, context_length=64, max_step_tokens=256)


def build(rows: list[PlanRow]) -> StepInputs:
    checked = read_rows(make_plan(rows), BOUNDS)
    return build_inputs(checked, BOUNDS.block_size, torch.float32, torch.device("cpu"))


def slot(row: PlanRow, position: int) -> int:
    return row.blocks[position // BOUNDS.block_size] * BOUNDS.block_size + position % BOUNDS.block_size


@st.composite
def ragged(draw: st.DrawFn) -> list[PlanRow]:
    rows = []
    for sequence in range(draw(st.integers(1, 6))):
        length = draw(st.sampled_from([1, 1, 2, 5]))
        base = draw(st.integers(0, 20))
        count = -(-(base + length) // BOUNDS.block_size)
        blocks = draw(st.permutations(range(BOUNDS.num_blocks)))[:count]
        ids = draw(st.lists(st.integers(0, 99), min_size=length, max_size=length))
        scored = ids[: draw(st.integers(0, length))]
        rows.append(PlanRow(sequence, base, ids, list(blocks), draw(st.integers(0, length)), scored))
    return rows


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_every_token_has_its_id_position_and_slot(rows: list[PlanRow]) -> None:
    inputs = build(rows)
    positions = [(row, row.base_length + offset) for row in rows for offset in range(len(row.ids))]
    assert inputs.ids_N.tolist() == [id for row in rows for id in row.ids]
    assert inputs.positions_N.tolist() == [position for _, position in positions]
    assert inputs.slots_N.tolist() == [slot(row, position) for row, position in positions]


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_sampled_tokens_come_before_scored_ones(rows: list[PlanRow]) -> None:
    sampled: list[int] = []
    scored: list[int] = []
    end = 0
    for row in rows:
        end += len(row.ids)
        sampled += range(end - row.sampled, end)
        scored += range(end - len(row.scored_ids), end)
    assert build(rows).reported_P.tolist() == sampled + scored


@settings(max_examples=60, deadline=None)
@given(ragged())
def test_each_token_sees_its_own_past_and_itself(rows: list[PlanRow]) -> None:
    inputs = build(rows)
    owner = [(row, offset) for row in rows for offset in range(len(row.ids))]
    seen = []
    for bucket in inputs.buckets:
        assert len({len(owner[token][0].ids) for token in bucket.tokens_Bn.flatten().tolist()}) == 1
        for b, tokens in enumerate(bucket.tokens_Bn.tolist()):
            for i, token in enumerate(tokens):
                row, offset = owner[token]
                visible = bucket.slots_BL[b][bucket.mask_BnL[b, i] == 0].tolist()
                assert visible == [slot(row, p) for p in range(row.base_length + offset + 1)]
                assert set(bucket.mask_BnL[b, i].tolist()) <= {0.0, float("-inf")}
                seen.append(token)
            # Padding is the row's own first slot, which is always written.
            row, _ = owner[tokens[0]]
            padding = bucket.slots_BL[b, row.base_length + len(row.ids) :].tolist()
            assert set(padding) <= {slot(row, 0)}
    assert sorted(seen) == list(range(len(owner)))


def test_decode_rows_are_one_bucket() -> None:
    rows = [PlanRow(s, 3 * s, [1], list(range(10 * s, 10 * s + 4))) for s in range(4)]
    inputs = build([*rows, PlanRow(9, 0, [1, 2], [45])])
    assert [tuple(bucket.tokens_Bn.shape) for bucket in inputs.buckets] == [(4, 1), (1, 2)]
    assert inputs.buckets[0].mask_BnL.shape == (4, 1, 10)
