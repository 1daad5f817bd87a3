"""Continuous batching: each step holds every decoding sequence, and prefill chunks as far as the budget goes.

Iteration-level scheduling as in Orca (Yu et al., OSDI 2022), paged KV blocks with preemption by recomputation as in
vLLM (Kwon et al., SOSP 2023), chunked prefill beside decodes as in Sarathi-Serve (Agrawal et al., OSDI 2024).

Everything running is older than everything waiting: newcomers wait at the back, the longest waiting is
admitted first, and the youngest running is preempted first, to the front of the queue.

Progress: blocks are given out oldest first, and only younger sequences lose theirs. So the oldest is never preempted,
and since it fits the pool alone (`add` saw to it), it gets a row in every step and ends; then the next is the oldest.
"""

from collections.abc import Iterable

from common.errors import InvalidRequest
from gateway.scheduling.admission import BatchLimits, WaitingQueue
from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.plan import Outcome, StepPlan, advance, make_row
from gateway.scheduling.prefill_pacer import PrefillPacer
from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.room_ahead import trim_drafts
from gateway.scheduling.run_ahead import RunAheadPolicy
from gateway.scheduling.sequence import Kind, Sequence, State

CHECK_BOOKS_STEPS = 100


class Scheduler:
    """Owns all sequences and KV blocks. One plan is out at a time: `plan`, run it, `commit`, and again."""

    def __init__(
        self,
        pool: BlockPool,
        pacer: PrefillPacer,
        limits: BatchLimits,
        prefix_reuse: bool = True,
        run_ahead: RunAheadPolicy | None = None,
    ) -> None:
        self.pacer = pacer
        self.run_ahead = run_ahead or RunAheadPolicy()
        self.blocks = PrefixCache(pool, enabled=prefix_reuse)
        self._limits = limits
        self._waiting = WaitingQueue(limits.max_queued_requests, limits.max_queued_tokens)
        self._running: list[Sequence] = []  # oldest first
        self.closes: list[int] = []  # what the ranks are still to forget; whoever tells them clears it
        self._plan_out: StepPlan | None = None
        # Who leaves after the plan that is out; True: its blocks are not sound.
        self._leaving: dict[Sequence, bool] = {}
        self._no_room = False  # the head of the queue found too few blocks, and none came back since
        self._arrivals = self._numbers = self._commits = 0

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences that hold blocks, oldest first."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Sequences that hold none, oldest first."""
        return tuple(self._waiting)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens waiting for their first step."""
        return self._waiting.queued_tokens

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not self._running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Let a new sequence wait for its first step.

        Raises InvalidRequest when it is empty or could never fit into the pool, Overloaded when too much is
        waiting.
        """
        field = "prompt" if sequence.kind is Kind.GENERATE else "input"
        if sequence.prompt_length == 0:
            raise InvalidRequest(field, "must hold at least one token")
        if not self._fits(sequence):
            most = self.blocks.pool.num_blocks * self.blocks.pool.block_size
            size = f"{sequence.max_length} tokens, new ones included"
            raise InvalidRequest(field, f"{size}, exceed the KV cache's {most}")
        self._waiting.check_room(sequence.prompt_length, self._limits.max_running - len(self._running))
        sequence.arrival = self._arrivals
        self._arrivals += 1
        sequence.number = self._new_number()
        self._waiting.append(sequence)

    def plan(self) -> StepPlan | None:
        """Return the next step, or None when there is nothing to run."""
        assert self._plan_out is None, "the last plan was not committed"
        decode_tokens = sum([sequence.uncomputed == 1 for sequence in self._running])
        most = self._limits.max_step_tokens
        decode_tokens += trim_drafts(self._running, most - decode_tokens, bool(self._waiting), self.blocks)
        budget = min(self.pacer.allowance(decode_tokens), most - decode_tokens)
        chosen: list[tuple[Sequence, int]] = []
        num_running, prefill_tokens = len(self._running), 0
        # Oldest first: whoever has to give up blocks comes later in the list, so it has no row yet.
        for sequence in self._running:
            decode = sequence.uncomputed == 1
            num_ids = self._make_room(sequence, 1 if decode else self._chunk(sequence, budget - prefill_tokens))
            if num_ids:
                chosen.append((sequence, num_ids))
            elif decode:
                self._preempt(sequence)
            prefill_tokens += 0 if decode else num_ids
        preempted = num_running - len(self._running)
        while prefill_tokens < budget and not preempted and self._admit():
            newcomer = self._running[-1]
            num_ids = self._make_room(newcomer, self._chunk(newcomer, budget - prefill_tokens))
            chosen.append((newcomer, num_ids))
            prefill_tokens += num_ids
        if not chosen:
            assert self.idle, "nothing planned although there is work"
            return None
        all_chosen = len(chosen) == len(self._running)
        continued = self.run_ahead.continue_by(chosen, self.blocks) if all_chosen and not self._waiting else 0
        run_ahead = self.run_ahead.make_room(chosen, self.blocks, continued) if all_chosen else ()
        rows = tuple([make_row(sequence, num_ids, continued) for sequence, num_ids in chosen])
        self._plan_out = StepPlan(
            rows=rows,
            opens=tuple([sequence for sequence, _ in chosen if not sequence.opened]),
            closes=tuple(self.closes),
            decode_tokens=sum([len(row.token_ids) for row in rows]) - prefill_tokens,
            prefill_tokens=prefill_tokens,
            preempted=preempted,
            run_ahead=run_ahead,
        )
        self.closes.clear()
        return self._plan_out

    def commit(self, plan: StepPlan, outcomes: Iterable[Outcome]) -> None:
        """Enter the results of `plan`: one outcome per sampled row, in row order.

        Those of sequences that were cancelled or have failed meanwhile are ignored.
        """
        assert plan is self._plan_out, "not the plan that is out"
        self._plan_out = None
        results = list(outcomes)
        assert len(results) == sum([row.sampled > 0 for row in plan.rows]), "one outcome per sampled row"
        remaining = iter(results)
        for row in plan.rows:
            sequence = row.sequence
            sequence.opened = True
            result = next(remaining) if row.sampled else None
            if sequence in self._leaving:
                continue
            advance(row, result)
            if row.sampled or row.scored:
                # What was reported was finite and depends on every position before it: all are sound.
                self.blocks.publish(sequence)
            scored_out = sequence.kind is Kind.SCORE and sequence.uncomputed == 0
            if scored_out or (result is not None and result.finished):
                self._retire(sequence)
        for sequence, unsound in self._leaving.items():
            self._retire(sequence, unsound)
        self._leaving.clear()
        self._commits += 1
        if not self._running or self._commits % CHECK_BOOKS_STEPS == 0:
            self.check_books()

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence. If a plan is out, its blocks stay its own until that is committed."""
        self._leave(sequence, unsound=False)

    def fail(self, sequence: Sequence) -> None:
        """End a sequence whose results are not finite: as `cancel`, and nobody may reuse any of its blocks.

        To be called before the commit of the plan in which that showed.
        """
        self._leave(sequence, unsound=True)

    def on_group_lost(self, pool: BlockPool | None = None) -> list[Sequence]:
        """Begin a new epoch: nothing is computed, and the ranks know no sequence. A plan that is out is void.

        `pool` holds the new group's blocks, if they differ. Returns the sequences that can never fit into it; they
        are finished. All others wait, in order of arrival, and lose no token.
        """
        self._plan_out = None
        for sequence, unsound in self._leaving.items():
            self._retire(sequence, unsound)
        self._leaving.clear()
        for sequence in reversed(self._running):
            self._release(sequence)
            sequence.state = State.WAITING
            self._waiting.appendleft(sequence)
        self._running.clear()
        self.closes.clear()
        self.blocks.reset()
        if pool is not None:
            self.blocks = PrefixCache(pool, self.blocks.enabled)
        misfits = [sequence for sequence in self._waiting if not self._fits(sequence)]
        for sequence in self._waiting:
            sequence.opened = False
        for sequence in misfits:
            self.cancel(sequence)
        self.check_books()
        return misfits

    def check_books(self) -> None:
        """Check that every block is accounted for. Raises AssertionError."""
        self.blocks.check_books(len(sequence.block_table) for sequence in self._running)

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        return min(sequence.uncomputed, budget, self._limits.max_prefill_chunk_tokens)

    def _make_room(self, sequence: Sequence, num_ids: int) -> int:
        """Allocate blocks for the next `num_ids` ids, taking them from younger sequences if none are left.

        Returns for how many ids there is room: fewer only if `sequence` is the youngest.
        """
        table, pool = sequence.block_table, self.blocks.pool
        missing = pool.blocks_for(sequence.num_computed + num_ids) - len(table)
        while missing > self.blocks.available and self._running[-1] is not sequence:
            self._preempt(self._running[-1])
        if missing > self.blocks.available:
            assert self._running[0] is not sequence, "the oldest sequence does not fit the pool"
            missing = self.blocks.available
            num_ids = (len(table) + missing) * pool.block_size - sequence.num_computed
        if missing > 0:
            table.extend(self.blocks.allocate(missing))
        return num_ids

    def _admit(self) -> bool:
        """Start the longest waiting sequence if it may run and fits beside those that are running."""
        if not self._waiting or self._no_room or len(self._running) >= self._limits.max_running:
            return False
        sequence = self._waiting.head
        # Room to grow for everybody makes preemption rare; whoever was preempted before asks for twice as
        # much each time, so that it does not happen again and again.
        headroom = self.blocks.pool.block_size << min(sequence.preemptions, 16)
        hits = self.blocks.match(sequence)
        ahead = sum(self._blocks_ahead(other, headroom) for other in (*self._running, sequence))
        if ahead - self.blocks.num_in_use(hits) > self.blocks.available:
            self._no_room = True
            return False
        self._waiting.popleft()
        self.blocks.claim(sequence, hits)
        if not sequence.started:
            sequence.cached_prompt_tokens = sequence.num_computed
        sequence.started = True
        sequence.state = State.RUNNING
        self._running.append(sequence)
        return True

    def _blocks_ahead(self, sequence: Sequence, headroom: int) -> int:
        """Return how many more blocks `sequence` needs for its ids and, if it can grow, `headroom` more."""
        length = min(len(sequence.token_ids) + headroom, sequence.max_length)
        return max(0, self.blocks.pool.blocks_for(length) - len(sequence.block_table))

    def _preempt(self, sequence: Sequence) -> None:
        """Put the youngest running sequence back to the front of the queue, to be computed again."""
        assert sequence is self._running[-1] and len(self._running) > 1
        self._running.pop()
        self._release(sequence)
        self._close(sequence)
        sequence.number = self._new_number()
        sequence.preemptions += 1
        sequence.state = State.WAITING
        self._waiting.appendleft(sequence)

    def _leave(self, sequence: Sequence, unsound: bool) -> None:
        if sequence.arrival < 0:
            return  # `add` refused it
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
            sequence.state = State.FINISHED
            self._no_room = False
        elif sequence.state is State.RUNNING and self._plan_out is not None:
            self._leaving[sequence] = unsound or self._leaving.get(sequence, False)
        elif sequence.state is State.RUNNING:
            self._retire(sequence, unsound)

    def _retire(self, sequence: Sequence, unsound: bool = False) -> None:
        self._running.remove(sequence)
        if unsound:
            self.blocks.forget(sequence)
        self._release(sequence)
        self._close(sequence)
        sequence.state = State.FINISHED

    def _release(self, sequence: Sequence) -> None:
        self.blocks.release(sequence)
        self._no_room = False

    def _close(self, sequence: Sequence) -> None:
        if sequence.opened:
            self.closes.append(sequence.number)
            sequence.opened = False

    def _fits(self, sequence: Sequence) -> bool:
        pool = self.blocks.pool
        return pool.blocks_for(sequence.max_length) <= pool.num_blocks

    def _new_number(self) -> int:
        self._numbers = (self._numbers + 1) % (1 << 32)
        return self._numbers
