"""Proposals of a small model: which lines each step continues, for whoever waits, and ahead of them in idle time."""

import time
from collections import OrderedDict
from collections.abc import Iterable

from common.step_protocol import MAX_CONTINUED_PASSES
from draft_worker.blocks import BlockPool
from draft_worker.branching import likely_mismatches
from draft_worker.chain import Chain, Line
from draft_worker.proposer import About, Ask, Draft, Usage
from draft_worker.settings import DraftSettings
from draft_worker.step import Beta, Row, Stepper
from draft_worker.text import Key, Text
from shard_worker.engine import Engine
from tandem.draft.v1 import draft_service_pb2 as pb

# A line that has more to read than this is being prefilled: it does not hold up those that draft.
DRAFTING_IDS = 16
# Prefill beside drafting lines gets this part of a step's chunk.
PREFILL_SHARE = 4
# The step's time is averaged over about so many steps.
AVERAGED_STEPS = 16
# Every answer tells the load, and counting what a thousand texts have unread takes as long as an answer may.
COUNT_EVERY_NS = 20_000_000


class ModelProposer:
    """A Proposer with an engine of one rank. One call of `work` runs one step, so a new ask waits for one at most.

    Where nobody is left to ask, a step drafts all that is wanted.
    """

    def __init__(self, engine: Engine, about: About, beta: Beta, settings: DraftSettings) -> None:
        info = engine.info
        self.about = about
        self._settings = settings
        self._pool = BlockPool(info.num_blocks, info.block_size_tokens)
        self._closed: list[int] = []
        self._stepper = Stepper(engine, beta, self._closed)
        self._max_length = min(info.context_length, info.num_blocks * info.block_size_tokens)
        # Least recently used first.
        self._chains: OrderedDict[Key, Chain] = OrderedDict()
        self._asked: dict[Key, Chain] = {}
        self._step_ns = 0.0
        self._unread_tokens, self._counted_ns = 0, 0

    @property
    def usage(self) -> Usage:
        """What the cache holds, and how long a step of drafting lines alone takes."""
        now_ns = time.perf_counter_ns()
        if now_ns - self._counted_ns > COUNT_EVERY_NS:
            self._unread_tokens = sum(chain.unread_tokens for chain in self._chains.values())
            self._counted_ns = now_ns
        return Usage(self._unread_tokens, self._pool.used_tokens, int(self._step_ns))

    @property
    def waiting(self) -> int:
        """How many asks are not answered."""
        return len(self._asked)

    def open(self, text: Text) -> None:
        """Begin to read a text in idle time."""
        self._chains[text.key] = Chain(text, self._pool, self._closed)

    def commit(self, text: Text, old_length: int, unchanged: int) -> None:
        """Keep of the drafted lines what came true."""
        self._chains.move_to_end(text.key)
        chain = self._chains[text.key]
        chain.advance(old_length, unchanged)
        chain.count = chain.main.wanted = 0

    def ask(self, ask: Ask) -> None:
        """Queue an ask. What run-ahead has already drafted is its beginning."""
        chain = self._chains[ask.text.key]
        chain.ask = ask
        chain.count = max(0, min(ask.count, self._max_length - ask.text.length))
        chain.main.wanted = chain.count
        ask.num_ready = min(chain.count, len(chain.main.tokens))
        self._asked[ask.text.key] = chain

    def withdraw(self, key: Key) -> Ask | None:
        """Forget the ask that waits for this text, and return it."""
        chain = self._asked.pop(key, None)
        if chain is None:
            return None
        ask, chain.ask = chain.ask, None
        return ask

    def close(self, key: Key) -> None:
        """Forget a text, its KV and its ask."""
        self._asked.pop(key, None)
        self._chains.pop(key).close()

    def work(self) -> list[Draft] | None:
        """Answer what is ready; without any, run one step: for asks, or else ahead. None: nothing can be done."""
        if drafts := self._ready_drafts():
            return drafts
        rows = self._rows(self._asked.values(), self._settings.max_step_rows) if self._asked else self._idle_rows()
        if not rows:
            return None
        began_ns = time.perf_counter_ns()
        continued = self._continue_by(rows, began_ns)
        for row in rows:
            if row.chain.ask is not None:
                row.chain.ask.start()
                row.chain.ask.num_steps += 1 + continued
        self._stepper.run(rows, continued)
        if all(row.num_ids <= DRAFTING_IDS for row in rows):
            took_ns = (time.perf_counter_ns() - began_ns) / (1 + continued)
            self._step_ns += (took_ns - self._step_ns) / (AVERAGED_STEPS if self._step_ns else 1)
        return self._ready_drafts()

    def _continue_by(self, rows: list[Row], now_ns: int) -> int:
        """Return how many more tokens each row may draft in the same step, and give the lines their blocks.

        Only where every text is being drafted for: nobody else can ask then, and wait for a longer step.
        """
        drawing = [row for row in rows if row.can_continue and row.num_ids <= DRAFTING_IDS]
        asks = [row.chain.ask for row in drawing if row.chain.ask is not None]
        if not len(asks) == len(rows) == len(self._chains):
            return 0
        wanted = min(row.chain.count - len(row.line.tokens) for row in rows)
        if self._step_ns:
            left_ns = [ask.due_ns - now_ns for ask in asks if ask.due_ns is not None]
            wanted = min([wanted, *(int(left / self._step_ns) for left in left_ns)])
        continued = max(0, min(wanted - 1, MAX_CONTINUED_PASSES))
        ends = [(row.line, row.chain.length(row.line) + continued) for row in rows]
        return continued if all(self._pool.extend(line.blocks, end) for line, end in ends) else 0

    def _ready_drafts(self) -> list[Draft]:
        now_ns = time.perf_counter_ns()
        return [draft for chain in list(self._asked.values()) if (draft := self._ready_draft(chain, now_ns))]

    def _ready_draft(self, chain: Chain, now_ns: int) -> Draft | None:
        """Return the answer to a chain's ask when it is complete, cannot be had, or would come late after a step."""
        ask, tokens = chain.ask, chain.main.tokens[: chain.count]
        assert ask is not None
        if chain.count < 1:
            draft = Draft(ask, pb.OUTCOME_FULL)
        elif len(tokens) == chain.count:
            draft = Draft(ask, pb.OUTCOME_PROPOSED, tokens)
        elif ask.due_ns is not None and now_ns + (self._step_ns if tokens else 0) > ask.due_ns:
            draft = Draft(ask, pb.OUTCOME_PROPOSED if tokens else pb.OUTCOME_LATE, tokens)
        else:
            return None
        ask.start()
        self.withdraw(ask.text.key)
        return draft

    def _idle_rows(self) -> list[Row]:
        """Return what is worth doing while nobody waits: lines ahead of their next ask, then texts not read yet."""
        chains = list(reversed(self._chains.values()))
        if self._settings.run_ahead:
            for chain in chains:
                self._look_ahead(chain)
        return self._rows(chains, min(self._settings.run_ahead_rows, self._settings.max_step_rows))

    def _look_ahead(self, chain: Chain) -> None:
        """Want the answer to the next ask: of a verdict that takes all tokens and draws the draft's own next one, and
        of the likeliest mismatches. Answered once a commit, when the asked tokens are there.
        """
        if chain.has_branched or not chain.count or len(chain.main.tokens) < chain.count:
            return
        chain.has_branched = True
        chain.main.wanted = 2 * chain.count + 1
        for place in likely_mismatches(chain.main.tokens[: chain.count], self._settings.side_lines):
            chain.branch(place)

    def _rows(self, chains: Iterable[Chain], max_drafting: int) -> list[Row]:
        """Return the rows of one step: lines that draft first, then prefill as far as the step's budget goes."""
        drafting, reading = [], []
        for chain in chains:
            for line in (chain.main, *chain.sides):
                unread = chain.length(line) - line.num_read
                if unread > DRAFTING_IDS:
                    reading.append((chain, line, unread))
                elif (len(line.tokens) < line.wanted or unread > 1) and chain.length(line) < self._max_length:
                    drafting.append((chain, line, unread))
        budget = self._settings.prefill_chunk_tokens // (PREFILL_SHARE if drafting else 1) or 1
        rows: list[Row] = []
        for chain, line, unread in drafting[:max_drafting]:
            self._add(rows, chain, line, unread)
        for chain, line, unread in reading:
            if budget < 1:
                break
            budget -= self._add(rows, chain, line, min(budget, unread))
        return rows

    def _add(self, rows: list[Row], chain: Chain, line: Line, num_ids: int) -> int:
        """Give a line the blocks for `num_ids` more and add its row; return num_ids, or 0 where there is no room."""
        if not chain.holds(line):
            return 0  # dropped when another row of this step needed room
        length = line.num_read + num_ids
        while not self._pool.extend(line.blocks, length):
            if not self._make_room(chain, {id(row.chain) for row in rows}):
                return 0
        rows.append(Row(chain, line, num_ids))
        return num_ids

    def _make_room(self, chain: Chain, taken: set[int]) -> bool:
        """Free some blocks for a chain, of none whose row is in the step; return whether there were any.

        For an ask the least recently used chain that holds blocks loses them; idle work takes from older chains only.
        """
        for other in self._chains.values():
            if other is chain and chain.ask is None:
                return False
            if other is chain or id(other) in taken or not other.main.blocks:
                continue
            other.evict()
            return True
        return False
