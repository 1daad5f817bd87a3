"""Every head, column and row of a model is somebody's, and only what must be is held twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CheckpointError
from common.manifest import Architecture, Rope
from shard_worker.partition import Partition, Span, partition


def architecture(
    query_heads: int, kv_heads: int, intermediate_size: int = 64, vocabulary_size: int = 64
) -> Architecture:
    return Architecture(
        family="llama",
        layers=1,
        hidden_size=8,
        intermediate_size=intermediate_size,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=4,
        vocabulary_size=vocabulary_size,
        context_length=16,
        norm_eps=1e-5,
        rope=Rope(theta=10_000.0),
        tied_embeddings=False,
    )


@st.composite
def groups(draw: st.DrawFn) -> tuple[Architecture, list[Partition]]:
    """A model and all ranks of a group that can hold it."""
    kv_heads = draw(st.integers(1, 9))
    arch = architecture(
        query_heads=kv_heads * draw(st.integers(1, 6)),
        kv_heads=kv_heads,
        intermediate_size=draw(st.integers(1, 200)),
        vocabulary_size=draw(st.integers(1, 300)),
    )
    most = min(arch.query_heads, arch.intermediate_size, arch.vocabulary_size)
    world_size = draw(st.integers(1, most))
    return arch, [partition(arch, rank, world_size) for rank in range(world_size)]


def covered(spans: list[Span]) -> list[int]:
    return [entry for span in spans for entry in range(span.start, span.stop)]


@given(groups())
def test_everything_is_owned_once_and_evenly(group: tuple[Architecture, list[Partition]]) -> None:
    arch, parts = group
    for spans, total in (
        ([part.query_heads for part in parts], arch.query_heads),
        ([part.feed_forward for part in parts], arch.intermediate_size),
        ([part.vocabulary for part in parts], arch.vocabulary_size),
    ):
        assert covered(spans) == list(range(total))
        assert all(span.size >= 1 for span in spans)
    for spans in ([part.feed_forward for part in parts], [part.vocabulary for part in parts]):
        sizes = [span.size for span in spans]
        assert max(sizes) - min(sizes) <= 1


@given(groups())
def test_kv_heads_are_held_by_those_who_read_them(group: tuple[Architecture, list[Partition]]) -> None:
    arch, parts = group
    per_kv = arch.query_heads // arch.kv_heads
    for part in parts:
        read = [head // per_kv for head in range(part.query_heads.start, part.query_heads.stop)]
        assert [part.kv_heads.start + kv for kv in part.kv_of_query] == read
        assert covered([part.kv_heads]) == sorted(set(read))
    held = covered([part.kv_heads for part in parts])
    if arch.kv_heads % len(parts) == 0:
        assert held == list(range(arch.kv_heads))
    else:
        # A copy is made only where a KV head's queries are spread over two ranks or more.
        assert sorted(set(held)) == list(range(arch.kv_heads))
        assert len(held) < arch.kv_heads + len(parts)


@given(groups())
def test_queries_per_kv_is_told_exactly_when_it_is_true(group: tuple[Architecture, list[Partition]]) -> None:
    for part in group[1]:
        even = [
            per_kv
            for per_kv in range(1, part.query_heads.size + 1)
            if part.kv_of_query == tuple(kv for kv in range(part.kv_heads.size) for _ in range(per_kv))
        ]
        assert part.queries_per_kv == (even[0] if even else None)


@given(groups(), st.sampled_from([32, 64]))
def test_groups_of_feed_forward_columns_stay_whole(group: tuple[Architecture, list[Partition]], unit: int) -> None:
    arch, parts = group
    units = -(-arch.intermediate_size // unit)
    if len(parts) > units:
        with pytest.raises(CheckpointError, match=f"{len(parts)} ranks cannot share {units} groups of {unit}"):
            partition(arch, 0, len(parts), unit)
        return
    spans = [partition(arch, rank, len(parts), unit).feed_forward for rank in range(len(parts))]
    assert covered(spans) == list(range(arch.intermediate_size))
    assert all(span.start % unit == 0 and span.size for span in spans)
    sizes = [-(-span.size // unit) for span in spans]
    assert max(sizes) - min(sizes) <= 1


def test_smollm2_over_two_ranks() -> None:
    parts = [partition(architecture(query_heads=9, kv_heads=3), rank, 2) for rank in range(2)]
    assert [part.query_heads for part in parts] == [Span(0, 5), Span(5, 9)]
    assert [part.kv_heads for part in parts] == [Span(0, 2), Span(1, 3)]
    assert [part.kv_of_query for part in parts] == [(0, 0, 0, 1, 1), (0, 1, 1, 1)]


@given(groups())
def test_a_copy_leaves_less_to_who_has_the_most_and_no_more_cache(group: tuple[Architecture, list[Partition]]) -> None:
    arch, parts = group
    if len(parts) > arch.kv_heads:
        return
    most_whole = -(-arch.kv_heads // len(parts))
    load_whole = most_whole * (1 + arch.query_heads // arch.kv_heads)
    load = max(part.query_heads.size + part.kv_heads.size for part in parts)
    assert max(part.kv_heads.size for part in parts) == most_whole
    is_copied = sum(part.kv_heads.size for part in parts) > arch.kv_heads
    assert load < load_whole if is_copied else load == load_whole


def test_replication_with_uneven_queries() -> None:
    parts = [partition(architecture(query_heads=9, kv_heads=3), rank, 4) for rank in range(4)]
    assert [part.query_heads for part in parts] == [Span(0, 3), Span(3, 5), Span(5, 7), Span(7, 9)]
    assert [part.kv_heads for part in parts] == [Span(0, 1), Span(1, 2), Span(1, 3), Span(2, 3)]
    assert [part.kv_of_query for part in parts] == [(0, 0, 0), (0, 0), (0, 1), (0, 0)]
    assert parts[2].queries_per_kv == 1


@pytest.mark.parametrize(
    ("arch", "rank", "world_size", "reason"),
    [
        (architecture(6, 3), 0, 7, "7 ranks cannot share 6 query heads"),
        (architecture(6, 3, intermediate_size=3), 0, 4, "4 ranks cannot share 3 feed-forward columns"),
        (architecture(6, 3, vocabulary_size=4), 0, 5, "5 ranks cannot share 4 vocabulary rows"),
        (architecture(6, 4), 0, 1, "6 query heads do not divide among 4 KV heads"),
        (architecture(6, 3), 2, 2, "rank 2 is not one of 2 ranks"),
        (architecture(6, 3), -1, 2, "rank -1 is not one of 2 ranks"),
    ],
)
def test_refusals_say_why(arch: Architecture, rank: int, world_size: int, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        partition(arch, rank, world_size)
