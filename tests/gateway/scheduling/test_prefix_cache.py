from collections.abc import Iterable

import pytest

from gateway.scheduling import prefix_cache
from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.sequence import Sequence

SIZE = 2


def compute(cache: PrefixCache, ids: Iterable[int], tenant: str = "t") -> Sequence:
    """Return a sequence that has reused what it may, computed all the rest, and published it."""
    sequence = Sequence(tenant, ids, 8)
    cache.claim(sequence, cache.match(sequence))
    missing = cache.pool.blocks_for(sequence.prompt_length) - len(sequence.block_table)
    sequence.block_table.extend(cache.allocate(missing))
    sequence.num_computed = sequence.prompt_length
    cache.publish(sequence)
    return sequence


def hits(cache: PrefixCache, ids: Iterable[int], tenant: str = "t") -> list[int]:
    """Return the blocks that a new sequence would find."""
    return [entry.block for entry in cache.match(Sequence(tenant, ids, 8))]


def test_full_blocks_of_the_same_prefix_are_found() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    first = compute(cache, [1, 2, 3, 4, 5])
    assert hits(cache, [1, 2, 3, 4, 9]) == [*first.block_table[:2]]
    assert hits(cache, [1, 2, 3, 9, 9]) == [first.block_table[0]]
    assert hits(cache, [3, 4, 1, 2, 9]) == []
    second = compute(cache, [1, 2, 3, 4, 9])
    assert cache.pool.references(second.block_table[0]) == 3  # two sequences and the cache
    cache.check_books([3, 3])


def test_the_last_token_is_always_left_to_compute() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    compute(cache, [1, 2, 3, 4])
    assert len(hits(cache, [1, 2, 3, 4])) == 1
    assert len(hits(cache, [1, 2, 3, 4, 5])) == 2


def test_tenants_never_share() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    compute(cache, [1, 2, 3], "a")
    assert hits(cache, [1, 2, 3], "b") == [] and len(hits(cache, [1, 2, 3], "a")) == 1
    compute(cache, [1, 2, 3], "b")
    assert cache.num_cached == 2


def test_a_cache_that_is_off_finds_and_keeps_nothing() -> None:
    cache = PrefixCache(BlockPool(8, SIZE), enabled=False)
    sequence = compute(cache, [1, 2, 3])
    assert hits(cache, [1, 2, 3]) == [] and cache.num_cached == 0
    cache.release(sequence)
    assert cache.pool.num_free == 8


def test_idle_blocks_stay_until_room_is_needed_and_the_end_of_a_prefix_goes_first() -> None:
    cache = PrefixCache(BlockPool(4, SIZE))
    cache.release(compute(cache, [1, 2, 3, 4, 5, 6]))
    assert (cache.pool.num_free, cache.num_idle, cache.available) == (1, 3, 4)
    cache.allocate(2)
    assert len(hits(cache, [1, 2, 3, 4, 5, 6, 7])) == 2
    cache.check_books([2])


def test_what_was_used_last_is_evicted_last() -> None:
    cache = PrefixCache(BlockPool(4, SIZE))
    old, new = compute(cache, [1, 2]), compute(cache, [3, 4])
    cache.release(old)
    cache.release(new)
    cache.release(compute(cache, [1, 2, 9]))
    cache.allocate(3)
    assert len(hits(cache, [1, 2, 9])) == 1 and hits(cache, [3, 4, 9]) == []


def test_blocks_in_use_are_not_evicted() -> None:
    cache = PrefixCache(BlockPool(3, SIZE))
    sequence = compute(cache, [1, 2, 3, 4])
    assert cache.available == 1 and cache.num_in_use(cache.match(sequence)) == 1
    with pytest.raises(KeyError):
        cache.allocate(2)


@pytest.mark.parametrize("digest", [b"", None], ids=["all hashes collide", "chains collide"])
def test_colliding_hashes_cost_a_hit_and_never_share_a_wrong_block(
    digest: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = (lambda tag, *fields: b"") if digest == b"" else (lambda tag, *fields: fields[-1])
    monkeypatch.setattr(prefix_cache, "_digest", weak)
    cache = PrefixCache(BlockPool(16, SIZE))
    cache.release(compute(cache, [1, 2, 9]))
    assert hits(cache, [7, 8, 9]) == [] and len(hits(cache, [1, 2, 9])) == 1
    first = compute(cache, [1, 2, 3, 4, 5])
    assert hits(cache, [7, 8, 3, 4, 5]) == []
    assert hits(cache, [1, 2, 3, 4, 5], "other") == []
    second = compute(cache, [7, 8, 3, 4, 5])
    found = hits(cache, [7, 8, 3, 4, 5])
    assert found == [*second.block_table[: len(found)]]
    assert not set(hits(cache, [1, 2, 3, 4, 5])) & set(second.block_table)
    cache.release(first)
    cache.release(second)
    cache.check_books([])


def test_two_that_compute_the_same_at_once_keep_their_own_blocks() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    twins = [Sequence("t", [1, 2, 3, 4, 5], 8) for _ in range(2)]
    for twin in twins:
        twin.block_table.extend(cache.allocate(3))
        twin.num_computed = 5
    for twin in twins:
        cache.publish(twin)
    assert cache.num_cached == 2 and hits(cache, [1, 2, 3, 4, 5]) == [*twins[0].block_table[:2]]
    for twin in twins:
        cache.release(twin)
    assert (cache.num_idle, cache.pool.num_free) == (2, 6)


def test_a_prefix_that_lost_its_beginning_is_listed_anew() -> None:
    cache = PrefixCache(BlockPool(6, SIZE))
    owner, twin = Sequence("t", [1, 2], 8), Sequence("t", [1, 2, 3, 4], 8)
    owner.block_table.extend(cache.allocate(1))
    twin.block_table.extend(cache.allocate(2))
    owner.num_computed = twin.num_computed = 2
    cache.publish(owner)
    cache.publish(twin)
    cache.release(owner)
    cache.pool.release(cache.allocate(4)[0])  # evicts the owner's block
    assert hits(cache, [1, 2, 9]) == []
    twin.num_computed = 4
    cache.publish(twin)
    assert hits(cache, [1, 2, 3, 4, 9]) == [*twin.block_table]


def test_an_entry_whose_beginning_was_replaced_is_replaced_too() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    first = compute(cache, [1, 2, 3, 4])
    cache._drop(cache._by_block[first.block_table[0]])
    assert hits(cache, [1, 2, 3, 4, 5]) == []
    second = compute(cache, [1, 2, 3, 4])
    assert hits(cache, [1, 2, 3, 4, 5]) == [*second.block_table]
    assert cache.num_cached == 2
    cache.check_books([2, 2])


def test_forgotten_blocks_are_not_found_but_still_belong_to_their_holders() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    good = compute(cache, [1, 2, 3])
    bad = compute(cache, [1, 2, 3, 4, 5])
    cache.forget(bad)
    assert hits(cache, [1, 2, 3, 4, 5]) == [] and cache.num_cached == 0
    cache.check_books([2, 3])
    cache.release(bad)
    assert cache.pool.references(good.block_table[0]) == 1


def test_a_new_epoch_begins_empty() -> None:
    cache = PrefixCache(BlockPool(8, SIZE))
    cache.release(compute(cache, [1, 2, 3]))
    cache.reset()
    assert (cache.num_cached, cache.num_idle, cache.pool.num_free) == (0, 0, 8)
    assert hits(cache, [1, 2, 3]) == []


def test_books_notice_an_idle_block_that_is_held() -> None:
    cache = PrefixCache(BlockPool(4, SIZE))
    cache.release(compute(cache, [1, 2]))
    cache.pool.retain(next(iter(cache._idle)))
    with pytest.raises(AssertionError, match="inconsistent"):
        cache.check_books([1])
