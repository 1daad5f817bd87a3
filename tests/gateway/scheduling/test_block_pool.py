import pytest

from gateway.scheduling.block_pool import BlockPool


def test_allocated_blocks_are_distinct_and_come_back() -> None:
    pool = BlockPool(num_blocks=5, block_size=4)
    first, second = pool.allocate(2), pool.allocate(3)
    assert sorted(first + second) == [0, 1, 2, 3, 4] and pool.num_free == 0
    assert [pool.release(block) for block in first] == [0, 0]
    assert pool.num_free == 2 and sorted(pool.allocate(2)) == sorted(first)


def test_a_shared_block_is_free_after_its_last_holder() -> None:
    pool = BlockPool(2, 4)
    [block] = pool.allocate(1)
    pool.retain(block)
    assert pool.references(block) == 2
    assert pool.release(block) == 1 and pool.num_free == 1
    assert pool.release(block) == 0 and pool.num_free == 2


@pytest.mark.parametrize(("positions", "blocks"), [(0, 0), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_blocks_for_rounds_up(positions: int, blocks: int) -> None:
    assert BlockPool(1, 4).blocks_for(positions) == blocks


def test_breaches_of_the_rules_are_noticed() -> None:
    pool = BlockPool(2, 4)
    with pytest.raises(AssertionError, match="3 blocks wanted, 2 free"):
        pool.allocate(3)
    [block] = pool.allocate(1)
    pool.release(block)
    with pytest.raises(AssertionError, match="free already"):
        pool.release(block)
    with pytest.raises(AssertionError, match="is free"):
        pool.retain(block)


def test_books_notice_a_lost_block_and_a_lost_reference() -> None:
    pool = BlockPool(4, 4)
    blocks = pool.allocate(3)
    pool.retain(blocks[0])
    pool.check_books([3, 1])
    with pytest.raises(AssertionError, match="4 references to blocks, but 3 are held"):
        pool.check_books([3])
    pool._free.pop()
    with pytest.raises(AssertionError, match=r"0 free \+ 3 used blocks != 4"):
        pool.check_books([3, 1])
