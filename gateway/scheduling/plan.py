"""What one step does, as the scheduler says it and the frame encoder reads it (tandem.shard.v1.Plan)."""

from array import array
from dataclasses import dataclass

from gateway.scheduling.sequence import Kind, Sequence

# Arrays of C ints support the buffer protocol: the encoder joins the rows' arrays with b"".join(...), without
# boxing.
NO_IDS = array("i")

_CONFIRMATION_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Sequence s, base length b, these ids, these KV blocks; report on the last positions.

    With k drafted ids after the committed ones, the row ends in those k ids and has `sampled` = 1 + k.
    """

    sequence: Sequence
    base_length: int
    token_ids: "array[int]"  # i32[n], n >= 1
    sampled: int  # how many of the last positions are sampled
    scored_ids: "array[int]"  # i32[scored]: the tokens whose likelihood the last positions tell
    block_table: "array[int]"  # i32[ceil((b + n) / block_size)]

    @property
    def draft_ids(self) -> "array[int]":
        """The drafted ids at its end, i32[sampled - 1]."""
        return self.token_ids[len(self.token_ids) - self.sampled + 1 :] if self.sampled > 1 else NO_IDS

    @property
    def scored(self) -> int:
        """How many of the last positions are scored."""
        return len(self.scored_ids)


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """One step: at most one row per sequence."""

    rows: tuple[Row, ...]
    opens: tuple[Sequence, ...]  # sequences of `rows` that the ranks do not know yet
    closes: tuple[int, ...]  # numbers to forget before the rows are run
    decode_tokens: int  # ids in decode rows, drafts included
    prefill_tokens: int  # ids in all other rows
    preempted: int = 0  # sequences that lost their blocks for it
    run_ahead: tuple[bool, ...] = ()  # with which rows the ranks go on by themselves; empty: with none


@dataclass(frozen=True, slots=True)
class Outcome:
    """Decision on a sampled row: 1 to `sampled` new ids (none only if finished); whether it ends there."""

    token_ids: tuple[int, ...] = ()
    finished: bool = False
    is_winner: bool = True  # the token is the best by noised score, with which the ranks may have gone on


def make_row(sequence: Sequence, num_ids: int) -> Row:
    """Return the row that feeds the next `num_ids` ids of `sequence`, and its drafts where those are its last ids.

    Their blocks must be allocated.
    """
    base = sequence.num_computed
    stop = base + num_ids
    scored_ids = NO_IDS
    if sequence.kind is Kind.SCORE:
        scored_ids = sequence.token_ids[max(base + 1, sequence.next_scored) : stop + 1]
    is_sampled = sequence.kind is Kind.GENERATE and stop == len(sequence.token_ids)
    draft_ids = sequence.draft_ids if is_sampled else NO_IDS
    return Row(
        sequence=sequence,
        base_length=base,
        token_ids=sequence.token_ids[base:stop] + draft_ids,
        sampled=is_sampled + len(draft_ids),
        scored_ids=scored_ids,
        block_table=sequence.block_table[:],
    )


def advance(row: Row, outcome: Outcome | None) -> None:
    """Enter what `row` computed, and the outcome of a sampled one, into its sequence."""
    sequence = row.sequence
    sequence.num_computed = row.base_length + len(row.token_ids)
    if row.scored:
        sequence.next_scored = sequence.num_computed + 1
    sequence.draft_ids = NO_IDS
    if outcome is not None:
        assert len(outcome.token_ids) <= row.sampled and (outcome.token_ids or outcome.finished)
        sequence.append(outcome.token_ids)
        sequence.confirmation += _CONFIRMATION_SMOOTHING * (outcome.is_winner - sequence.confirmation)
        assert len(sequence.token_ids) <= sequence.max_length
