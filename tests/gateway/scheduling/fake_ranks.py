"""A model without weights that notices every mistake in batching.

Its KV cache remembers, for each position of each block, whose prefix was written there. A row may only read
what is exactly its own prefix; the "next token" is a function of that prefix.
"""

from array import array
from dataclasses import dataclass

from gateway.scheduling.plan import Outcome, Row, StepPlan
from gateway.scheduling.sequence import Kind, Sequence

VOCABULARY = 3
MISSES = 5  # one in so many tokens that the ranks feed by themselves is not the one drawn
MAX_AHEAD = 5  # drafts, or continued positions and one that is run ahead


@dataclass(frozen=True)
class Cell:
    """One position of the KV cache: `chain` stands for the tenant and all ids up to here."""

    chain: int
    poisoned_by: Sequence | None


def chain_of(tenant: str, ids: "array[int]") -> list[int]:
    """Return the chain value at every position."""
    chains, chain = [], hash(tenant)
    for token_id in ids:
        chain = hash((chain, token_id))
        chains.append(chain)
    return chains


def next_token(chain: int) -> int:
    """Return the id that follows a prefix."""
    return chain % VOCABULARY


class FakeRanks:
    """Runs plans as a rank group would, and asserts what must hold for them."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.cells: dict[tuple[int, int], Cell] = {}
        self.known: dict[int, Sequence] = {}
        self.used_numbers: set[int] = set()
        self.poisons: dict[Sequence, int] = {}  # from which position on a sequence's results are not finite

    def lose_epoch(self) -> None:
        """Forget everything, as a new formation of the group would."""
        self.cells.clear()
        self.known.clear()
        self.used_numbers.clear()

    def run(self, plan: StepPlan) -> tuple[list[list[int]], set[Sequence]]:
        """Run a step; return the next tokens of every sampled row and the sequences that are not finite."""
        for number in plan.closes:
            del self.known[number]
        for sequence in plan.opens:
            assert sequence.number not in self.used_numbers
            self.used_numbers.add(sequence.number)
            self.known[sequence.number] = sequence
        assert len({row.sequence for row in plan.rows}) == len(plan.rows)
        self._check_writes(plan)
        tokens: list[list[int]] = []
        unsound: set[Sequence] = set()
        for row in plan.rows:
            assert self.known[row.sequence.number] is row.sequence
            chains, poisoned = self._run_row(row)
            if row.sampled:
                tokens.append([next_token(chain) for chain in chains[-row.sampled :]])
            if row.continued:
                more, now_poisoned = self._continue(row, tokens[-1][0])
                tokens[-1] += more
                poisoned = poisoned or now_poisoned
            if poisoned and (row.sampled or row.scored):
                unsound.add(row.sequence)
        for row, goes_on in zip(plan.rows, plan.run_ahead, strict=False):
            if goes_on:
                self._run_ahead(row)
        return tokens, unsound

    def _continue(self, row: Row, token: int) -> tuple[list[int], bool]:
        """Return the tokens that the gateway draws behind the first, and whether one of those is not finite.

        Now and then the ranks feed another token than it drew: from there on they write what no row may ever read.
        """
        sequence, ids = row.sequence, row.sequence.token_ids[:]
        assert (row.sampled, len(row.token_ids)) == (1, 1) and len(ids) + row.continued < sequence.max_length
        tokens: list[int] = []
        is_live, poisoned = True, False
        for position in range(len(ids), len(ids) + row.continued):
            ids.append(token)
            chain = chain_of(sequence.tenant, ids)[-1]
            is_live = is_live and chain % MISSES != 0
            poisoned = poisoned or (is_live and position >= self.poisons.get(sequence, position + 1))
            cell = Cell(chain, sequence if poisoned else None) if is_live else Cell(hash("dead"), None)
            self.cells[row.block_table[position // self.block_size], position % self.block_size] = cell
            if is_live:
                token = next_token(chain)
                tokens.append(token)
        return tokens, poisoned

    def _run_ahead(self, row: Row) -> None:
        """Write what no row may ever read, as a rank does whose guess is wrong."""
        sequence, stop = row.sequence, row.base_length + len(row.token_ids)
        assert row.sampled == 1 and stop + row.continued < sequence.max_length
        stop += row.continued
        self.cells[row.block_table[stop // self.block_size], stop % self.block_size] = Cell(hash("dead"), None)

    def _check_writes(self, plan: StepPlan) -> None:
        """No row writes into a block that another row holds."""
        written = [set(row.block_table[row.base_length // self.block_size :]) for row in plan.rows]
        for index, row in enumerate(plan.rows):
            for other, blocks in enumerate(written):
                assert other == index or not blocks & set(row.block_table)

    def _run_row(self, row: Row) -> tuple[list[int], bool]:
        sequence, base, stop = row.sequence, row.base_length, row.base_length + len(row.token_ids)
        known = sequence.token_ids + row.draft_ids
        assert row.token_ids == known[base:stop] and len(row.token_ids) > 0
        # What is more is for a row that is run ahead, or for drafts, now or in a plan before.
        assert -(-stop // self.block_size) <= len(row.block_table) <= -(-(stop + MAX_AHEAD) // self.block_size)
        assert stop < sequence.max_length or sequence.kind is Kind.SCORE
        chains = chain_of(sequence.tenant, known[:stop])
        places = [(row.block_table[p // self.block_size], p % self.block_size) for p in range(stop)]
        assert len(set(places)) == stop
        poisoned_from = self.poisons.get(sequence, stop)
        poisoned = False
        for position in range(base, stop):
            poison = sequence if position >= poisoned_from else None
            self.cells[places[position]] = Cell(chains[position], poison)
        for position in range(stop):
            cell = self.cells[places[position]]
            assert cell.chain == chains[position], "a row reads what is not its prefix"
            assert cell.poisoned_by in (None, sequence), "an unsound block was shared"
            poisoned = poisoned or cell.poisoned_by is not None
        return chains, poisoned


def decide(plan: StepPlan, tokens: list[list[int]], finished: set[Sequence]) -> list[Outcome]:
    """Return the outcomes of a plan: drafts are accepted as far as they are the rows' own tokens; `finished`
    sequences, and those at their full length, end.
    """
    outcomes = []
    for row, drawn in zip((row for row in plan.rows if row.sampled), tokens, strict=True):
        accepted = next((at for at, draft in enumerate(row.draft_ids) if draft != drawn[at]), len(row.draft_ids))
        accepted = len(drawn) - 1 if row.continued else accepted
        is_full = len(row.sequence.token_ids) + accepted + 1 == row.sequence.max_length
        outcomes.append(Outcome(tuple(drawn[: accepted + 1]), row.sequence in finished or is_full))
    return outcomes


def drafts(sequence: Sequence, count: int, is_last_wrong: bool) -> "array[int]":
    """Return what `sequence` will draw next, but for the last id where that is to be wrong."""
    ids = sequence.token_ids[:]
    for _ in range(count):
        ids.append(next_token(chain_of(sequence.tenant, ids)[-1]))
    drafted = ids[len(sequence.token_ids) :]
    if drafted and is_last_wrong:
        drafted[-1] = (drafted[-1] + 1) % VOCABULARY
    return drafted


def expected_ids(sequence: Sequence) -> "array[int]":
    """Return what `sequence` must hold: its prompt, then at each place the token that the prefix asks for."""
    ids = sequence.token_ids[: sequence.prompt_length]
    while sequence.kind is Kind.GENERATE and len(ids) < len(sequence.token_ids):
        ids.append(next_token(chain_of(sequence.tenant, ids)[-1]))
    return ids
