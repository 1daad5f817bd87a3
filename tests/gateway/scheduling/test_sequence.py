from array import array

import pytest

from gateway.scheduling.plan import Outcome, advance, make_row
from gateway.scheduling.sequence import Kind, Sequence, State


def test_a_new_sequence_waits_with_nothing_computed() -> None:
    sequence = Sequence("t", [5, 6, 7], max_new_tokens=4, params="any")
    assert sequence.state is State.WAITING and sequence.params == "any"
    assert (sequence.prompt_length, sequence.max_length, sequence.uncomputed) == (3, 7, 3)
    assert list(sequence.token_ids) == [5, 6, 7] and list(sequence.output_ids) == []


def test_rows_of_a_generation_chunk_then_sample_then_decode() -> None:
    sequence = Sequence("t", [5, 6, 7], 4)
    chunk = make_row(sequence, 2)
    assert (chunk.base_length, list(chunk.token_ids), chunk.sampled, chunk.scored) == (0, [5, 6], 0, 0)
    advance(chunk, None)
    last = make_row(sequence, 1)
    assert (last.base_length, list(last.token_ids), last.sampled) == (2, [7], 1)
    advance(last, Outcome((8,)))
    assert list(sequence.output_ids) == [8] and sequence.uncomputed == 1
    decode = make_row(sequence, 1)
    assert (decode.base_length, list(decode.token_ids), decode.sampled) == (3, [8], 1)


def test_a_row_keeps_its_block_table_when_the_sequence_loses_its_own() -> None:
    sequence = Sequence("t", [5], 4)
    sequence.block_table.append(3)
    row = make_row(sequence, 1)
    sequence.forget_blocks()
    assert list(row.block_table) == [3] and list(sequence.block_table) == []


def test_forgetting_blocks_keeps_every_committed_token() -> None:
    sequence = Sequence("t", [5, 6], 4)
    advance(make_row(sequence, 2), Outcome((8,)))
    sequence.forget_blocks()
    assert (sequence.num_computed, list(sequence.token_ids), sequence.uncomputed) == (0, [5, 6, 8], 3)


@pytest.mark.parametrize(
    ("new_ids", "computed"), [([], 3), ([7], 3), ([7, 8], 4), ([7, 8, 9], 5)], ids=["none", "1", "2", "3"]
)
def test_accepted_drafts_count_as_computed_and_the_last_token_does_not(new_ids: list[int], computed: int) -> None:
    sequence = Sequence("t", [4, 5, 6], 8)
    sequence.num_computed = 3
    sequence.append(new_ids)
    assert list(sequence.token_ids) == [4, 5, 6, *new_ids] and sequence.num_computed == computed


def test_scoring_rows_ask_for_each_token_once_and_never_feed_the_last() -> None:
    sequence = Sequence("t", [10, 11, 12, 13, 14, 15], 0, kind=Kind.SCORE, first_scored=3)
    assert sequence.uncomputed == 5
    first = make_row(sequence, 2)
    assert list(first.token_ids) == [10, 11] and first.scored == 0
    advance(first, None)
    second = make_row(sequence, 2)
    assert list(second.token_ids) == [12, 13] and list(second.scored_ids) == [13, 14]
    advance(second, None)
    assert sequence.next_scored == 5
    sequence.forget_blocks()
    again = make_row(sequence, 5)
    assert list(again.token_ids) == [10, 11, 12, 13, 14] and list(again.scored_ids) == [15]
    assert again.sampled == 0


def test_what_has_to_be_reported_is_not_reused() -> None:
    generation = Sequence("t", range(9), 4)
    assert generation.reusable == 8
    score = Sequence("t", range(9), 0, kind=Kind.SCORE, first_scored=5)
    assert score.reusable == 4
    score.next_scored = 8
    assert score.reusable == 7
    assert Sequence("t", [1], 0, kind=Kind.SCORE).reusable == 0


def test_a_score_of_one_token_feeds_it_and_scores_nothing() -> None:
    sequence = Sequence("t", [10], 0, kind=Kind.SCORE)
    row = make_row(sequence, sequence.uncomputed)
    assert (list(row.token_ids), row.sampled, row.scored) == ([10], 0, 0)


def test_rows_join_into_wire_bytes_without_conversion() -> None:
    rows = [make_row(Sequence("t", ids, 1), len(ids)) for ids in ([1, 2], [3])]
    assert b"".join(row.token_ids for row in rows) == array("i", [1, 2, 3]).tobytes()


@pytest.mark.parametrize("outcome", [Outcome((1, 2)), Outcome()], ids=["more than sampled", "none, unfinished"])
def test_an_outcome_that_does_not_fit_its_row_is_our_bug(outcome: Outcome) -> None:
    with pytest.raises(AssertionError):
        advance(make_row(Sequence("t", [5], 4), 1), outcome)
