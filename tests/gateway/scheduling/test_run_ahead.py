"""When ranks may go on by themselves: all rows decode next, there is room, and it pays."""

import pytest

from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.run_ahead import RunAheadPolicy
from gateway.scheduling.sequence import Kind, Sequence

SIZE = 4


def decoding(length: int, max_new_tokens: int = 100, kind: Kind = Kind.GENERATE) -> Sequence:
    """A sequence whose next step feeds its last id."""
    sequence = Sequence("t", range(length), max_new_tokens, kind=kind)
    sequence.num_computed = sequence.end - 1
    return sequence


def cache(num_blocks: int) -> PrefixCache:
    return PrefixCache(BlockPool(num_blocks, SIZE))


def room(*sequences: Sequence, blocks: PrefixCache) -> tuple[bool, ...]:
    for sequence in sequences:
        sequence.block_table.extend(blocks.allocate(blocks.pool.blocks_for(sequence.num_computed + 1)))
    return RunAheadPolicy().make_room([(sequence, 1) for sequence in sequences], blocks)


def test_a_block_is_taken_where_the_next_position_begins_one() -> None:
    inside, at_the_end = decoding(6), decoding(8)
    assert room(inside, at_the_end, blocks=cache(10)) == (True, True)
    assert (len(inside.block_table), len(at_the_end.block_table)) == (2, 3)


def test_no_block_is_taken_from_anybody() -> None:
    blocks = cache(4)
    inside, at_the_end = decoding(6), decoding(8)
    assert room(inside, at_the_end, blocks=blocks) == (True, False)
    assert blocks.available == 0 and len(at_the_end.block_table) == 2


def test_the_last_token_is_followed_by_nothing() -> None:
    assert room(decoding(6, max_new_tokens=1), decoding(6, max_new_tokens=2), blocks=cache(9)) == (False, True)


@pytest.mark.parametrize("other", [decoding(6, 0, Kind.SCORE), Sequence("t", range(9), 10)])
def test_not_beside_rows_that_are_not_sampled(other: Sequence) -> None:
    blocks = cache(9)
    assert room(decoding(6), other, blocks=blocks) == ()
    assert RunAheadPolicy(enabled=False).make_room([(decoding(6), 1)], blocks) == ()


def test_it_pays_while_more_is_hidden_than_lost() -> None:
    policy = RunAheadPolicy()
    sure, doubtful = decoding(6), decoding(6)
    doubtful.confirmation = 0.85
    assert policy.pays([sure]) and not policy.pays([sure, doubtful])  # nothing measured yet
    policy.observe(hop_s=0.002, step_s=0.010)
    assert policy.pays([doubtful]) and not policy.pays([doubtful, doubtful])
    policy.observe(hop_s=9.0, step_s=0.010)  # one outlier
    assert policy.pays([doubtful]) and not policy.pays([doubtful, doubtful])
    for _ in range(200):
        policy.observe(hop_s=0.001, step_s=0.010)
    assert not policy.pays([doubtful]) and policy.pays([sure] * 64)
