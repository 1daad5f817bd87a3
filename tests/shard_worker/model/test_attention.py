"""Paged attention: both paths are the formula, whatever the rows, block tables and head maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shard_worker.batch import build_inputs
from shard_worker.model.attention import ATTENTION_PATHS, HeadMap
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import StepInputs
from shard_worker.plan import Bounds, read_rows
from tests.support.plans import PlanRow, make_plan

HEAD_DIM = 8
NUM_BLOCKS = 64
BOUNDS = Bounds(num_blocks=NUM_BLOCKS, block_size=4, vocabulary_size=10, context_length=64, max_step_tokens=256)
KV_OF_QUERY = [(0,), (0, 1), (0, 0, 1, 1), (0, 0, 0, 0), (0, 1, 1), (0, 0, 1), (0, 1, 1, 2)]


def head_map(kv_of_query: tuple[int, ...]) -> HeadMap:
    """The head map as a partition tells it: the number of queries per KV head only where it is even."""
    counts = {kv_of_query.count(kv) for kv in kv_of_query}
    return HeadMap(torch.tensor(kv_of_query), counts.pop() if len(counts) == 1 else None)


def step_inputs(rows: list[PlanRow], dtype: torch.dtype = torch.float32) -> StepInputs:
    checked = read_rows(make_plan(rows), BOUNDS)
    return build_inputs(checked, BOUNDS.block_size, dtype, torch.device("cpu"))


def random_cache(kv_heads: int, dtype: torch.dtype = torch.float32) -> KVCache:
    cache = KVCache(1, NUM_BLOCKS, BOUNDS.block_size, kv_heads, HEAD_DIM, dtype, torch.device("cpu"))
    slots = torch.arange(NUM_BLOCKS * BOUNDS.block_size)
    cache.write(0, slots, torch.randn(len(slots), 2 * kv_heads, HEAD_DIM).to(dtype))
    return cache


def slots_of(row: PlanRow) -> Tensor:
    """The slot of every position up to the row's end."""
    places = range(row.base_length + len(row.ids))
    return torch.tensor(
        [row.blocks[p // BOUNDS.block_size] * BOUNDS.block_size + p % BOUNDS.block_size for p in places]
    )


def dense_attention(q_NHD: Tensor, cache: KVCache, rows: list[PlanRow], kv_of_query: tuple[int, ...]) -> Tensor:
    """Causal attention of each token over its own sequence, one head and one token at a time, in float64."""
    outputs, token = [], 0
    for row in rows:
        keys, values = (part[0].double() for part in cache.read(0, slots_of(row)[None]))
        for offset in range(len(row.ids)):
            visible = row.base_length + offset + 1
            heads = []
            for head, kv in enumerate(kv_of_query):
                scores = keys[kv, :visible] @ q_NHD[token, head].double() / math.sqrt(HEAD_DIM)
                heads.append(scores.softmax(dim=0) @ values[kv, :visible])
            outputs.append(torch.stack(heads))
            token += 1
    return torch.stack(outputs)


@st.composite
def ragged_rows(draw: st.DrawFn) -> list[PlanRow]:
    """Rows of any base and length in scattered blocks; some begin with the same prefix blocks."""
    blocks = draw(st.permutations(range(NUM_BLOCKS)))
    shared = draw(st.integers(0, 3))
    prefix, used, rows = list(blocks[:shared]), shared, []
    for sequence in range(draw(st.integers(1, 5))):
        length = draw(st.sampled_from([1, 1, 2, 3, 7]))
        sharing = shared > 0 and draw(st.booleans())
        least = shared * BOUNDS.block_size if sharing else 0
        base = draw(st.integers(least, 40))
        own = -(-(base + length) // BOUNDS.block_size) - (shared if sharing else 0)
        if used + own > NUM_BLOCKS:
            break
        table = (prefix if sharing else []) + list(blocks[used : used + own])
        used += own
        rows.append(PlanRow(sequence, base, [0] * length, table))
    return rows


@pytest.mark.parametrize("path", ATTENTION_PATHS)
@settings(max_examples=40, deadline=None)
@given(rows=ragged_rows(), kv_of_query=st.sampled_from(KV_OF_QUERY), seed=st.integers(0, 1000))
def test_paths_are_dense_attention(path: str, rows: list[PlanRow], kv_of_query: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    cache = random_cache(kv_heads=max(kv_of_query) + 1)
    step = step_inputs(rows)
    q_NHD = torch.randn(len(step.ids_N), len(kv_of_query), HEAD_DIM)
    out = ATTENTION_PATHS[path](q_NHD, cache, 0, step.buckets, head_map(kv_of_query))
    torch.testing.assert_close(out.double(), dense_attention(q_NHD, cache, rows, kv_of_query), atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(rows=ragged_rows(), kv_of_query=st.sampled_from(KV_OF_QUERY), seed=st.integers(0, 1000))
def test_fast_is_reference_in_bfloat16(rows: list[PlanRow], kv_of_query: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    cache = random_cache(kv_heads=max(kv_of_query) + 1, dtype=torch.bfloat16)
    step = step_inputs(rows, torch.bfloat16)
    q_NHD = torch.randn(len(step.ids_N), len(kv_of_query), HEAD_DIM, dtype=torch.bfloat16)
    fast, reference = (
        ATTENTION_PATHS[path](q_NHD, cache, 0, step.buckets, head_map(kv_of_query)) for path in ("fast", "reference")
    )
    torch.testing.assert_close(fast, reference, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("path", ATTENTION_PATHS)
def test_slots_of_nobody_never_leak(path: str) -> None:
    rows = [
        PlanRow(0, 0, [0], [5]),
        PlanRow(1, 13, [0], [9, 2, 30, 7]),
        PlanRow(2, 2, [0] * 3, [11, 12]),
        PlanRow(3, 17, [0] * 3, [20, 8, 22, 1, 40]),
    ]
    torch.manual_seed(0)
    cache, step = random_cache(kv_heads=2), step_inputs(rows)
    q_NHD = torch.randn(len(step.ids_N), 4, HEAD_DIM)
    heads = head_map((0, 0, 1, 1))
    before = ATTENTION_PATHS[path](q_NHD, cache, 0, step.buckets, heads)
    own = torch.cat([slots_of(row) for row in rows]).numpy()
    others = torch.from_numpy(np.setdiff1d(np.arange(NUM_BLOCKS * BOUNDS.block_size), own))
    cache.write(0, others, torch.full((len(others), 4, HEAD_DIM), torch.nan))
    after = ATTENTION_PATHS[path](q_NHD, cache, 0, step.buckets, heads)
    assert after.isfinite().all() and torch.equal(before, after)


@pytest.mark.parametrize("path", ATTENTION_PATHS)
def test_later_positions_of_a_row_do_not_change_earlier_ones(path: str) -> None:
    torch.manual_seed(0)
    row = PlanRow(0, 6, [0] * 5, [3, 8, 6])
    cache, step = random_cache(kv_heads=2), step_inputs([row])
    q_NHD = torch.randn(5, 2, HEAD_DIM)
    before = ATTENTION_PATHS[path](q_NHD, cache, 0, step.buckets, head_map((0, 1)))
    cache.write(0, slots_of(row)[-2:], torch.randn(2, 4, HEAD_DIM))
    after = ATTENTION_PATHS[path](q_NHD, cache, 0, step.buckets, head_map((0, 1)))
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3], after[3]) and not torch.equal(before[4], after[4])
