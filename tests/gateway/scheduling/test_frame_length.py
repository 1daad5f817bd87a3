"""How many tokens a frame draws: as many as make streams faster, within time and room, never at a newcomer's cost."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.frame_length import LEAST_HOP_SHARE, frame_length
from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.run_ahead import RunAheadPolicy
from gateway.scheduling.sequence import Kind, Sequence

HOP_S, STEP_S = 0.002, 0.005


def decoding(length: int, max_new_tokens: int = 100) -> Sequence:
    """A sequence of a one-token prompt, whose next step feeds its last id."""
    sequence = Sequence("t", [0], max_new_tokens)
    sequence.token_ids.extend(range(1, length))
    sequence.num_computed = length - 1
    return sequence


def continue_by(
    *sequences: Sequence, most: int = 4, step_s: float = STEP_S, num_blocks: int = 40, max_frame_s: float = 0.03
) -> int:
    """Return the policy's answer for sequences in blocks of 4, once steps of this duration were seen."""
    policy, blocks = RunAheadPolicy(True, most, max_frame_s), PrefixCache(BlockPool(num_blocks, 4))
    for sequence in sequences:
        sequence.block_table = array("i", blocks.allocate(blocks.pool.blocks_for(sequence.num_computed + 1)))
    chosen = [(sequence, 1) for sequence in sequences]
    assert policy.continue_by(chosen, blocks) == 0, "nothing was measured"
    policy.observe(HOP_S, step_s, len(sequences))
    continued = policy.continue_by(chosen, blocks)
    for sequence in sequences:
        assert not continued or len(sequence.block_table) * 4 >= len(sequence.token_ids) + continued
    return continued


def test_sure_streams_take_all_that_is_allowed() -> None:
    assert [continue_by(decoding(6), decoding(9), most=most) for most in (1, 2, 4)] == [0, 1, 3]


def test_no_frame_takes_too_long() -> None:
    assert [continue_by(decoding(6), step_s=step_s) for step_s in (0.007, 0.009, 0.014, 0.016, 0.2)] == [3, 2, 1, 0, 0]
    assert continue_by(decoding(6), step_s=0.03, max_frame_s=1.0) == 3


def test_a_step_that_became_longer_counts_at_once() -> None:
    policy, blocks, sequence = RunAheadPolicy(True, 4), PrefixCache(BlockPool(9, 4)), decoding(2)
    sequence.block_table = array("i", blocks.allocate(1))
    for _ in range(50):
        policy.observe(HOP_S, STEP_S)
    policy.observe(HOP_S, 0.02)
    assert policy.continue_by([(sequence, 1)], blocks) == 0
    policy.observe(HOP_S, STEP_S)
    assert policy.continue_by([(sequence, 1)], blocks) == 3


def test_frames_of_other_sizes_say_nothing() -> None:
    policy, blocks = RunAheadPolicy(True, 4), PrefixCache(BlockPool(99, 4))
    sequences = [decoding(2) for _ in range(16)]
    for sequence in sequences:
        sequence.block_table = array("i", blocks.allocate(1))
    policy.observe(HOP_S, STEP_S)
    many, alone = [(sequence, 1) for sequence in sequences], [(sequences[0], 1)]
    assert policy.continue_by(many, blocks) == 0, "a burst of requests: nobody knows yet how long a step will be"
    for _ in range(50):
        policy.observe(HOP_S, 0.02, len(many))
    assert (policy.continue_by(many, blocks), policy.continue_by(alone, blocks)) == (0, 3), "as before the burst"


def test_the_row_that_loses_most_decides() -> None:
    doubtful = decoding(6)
    doubtful.confirmation = 0.7
    assert continue_by(decoding(6), doubtful) < 3


def test_no_further_than_to_the_end_of_any_row() -> None:
    # Of 5 tokens that may still be drawn the last is never fed.
    assert [continue_by(decoding(6), decoding(6, 5 + left)) for left in (1, 2, 3, 9)] == [0, 1, 2, 3]


def test_nothing_where_blocks_are_short() -> None:
    assert continue_by(decoding(6), decoding(6), num_blocks=8) == 3
    assert continue_by(decoding(6), decoding(6), num_blocks=7) == 0


def test_not_beside_prefill_scoring_or_drafts() -> None:
    scoring = Sequence("t", range(3), 0, kind=Kind.SCORE)
    scoring.num_computed = 1
    newcomer, prefilled, drafted, speculating = decoding(1), Sequence("t", range(9), 9), decoding(6), decoding(6)
    drafted.draft_ids, speculating.speculates = array("i", [1]), True
    reading = decoding(6)
    reading.drafts_any_time = True
    assert newcomer.uncomputed == 1  # a prompt of one token
    for other in (scoring, newcomer, prefilled, drafted, speculating, reading):
        assert continue_by(decoding(6), other) == 0


@pytest.mark.parametrize(("hop_s", "expected"), [(LEAST_HOP_SHARE * 0.99, 1), (LEAST_HOP_SHARE * 1.01, 8)])
def test_short_hops_are_not_saved(hop_s: float, expected: int) -> None:
    assert frame_length(8, hop_s, 1.0, 1.0) == expected


@given(st.integers(1, 12), st.floats(0.05, 10.0), st.floats(0.0, 1.0))
def test_no_other_length_is_faster(most: int, hop: float, confirmation: float) -> None:
    def rate(length: int) -> float:
        return sum(confirmation**index for index in range(length)) / (hop + length)

    best = frame_length(most, hop, 1.0, confirmation)
    assert 1 <= best <= most
    assert all(rate(best) >= rate(other) * (1 - 1e-9) for other in range(1, most + 1))
