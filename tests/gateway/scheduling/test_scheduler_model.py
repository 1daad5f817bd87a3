"""Any interleaving of arrivals, steps, cancels, failures and lost groups keeps the scheduler's promises."""

from collections import Counter
from collections.abc import Iterable

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import InvalidRequest, Overloaded
from gateway.scheduling.admission import BatchLimits
from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.plan import StepPlan
from gateway.scheduling.prefill_pacer import PrefillPacer
from gateway.scheduling.run_ahead import RunAheadPolicy
from gateway.scheduling.scheduler import Scheduler
from gateway.scheduling.sequence import Kind, Sequence, State
from tests.gateway.scheduling.fake_ranks import MAX_AHEAD, VOCABULARY, FakeRanks, decide, drafts, expected_ids

PREFIXES: tuple[list[int], ...] = ([], [0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 0, 2, 2])


IDS = st.lists(st.integers(0, VOCABULARY - 1), max_size=4)


class EagerScheduler(Scheduler):
    """Admits without room to grow, so that it has to preempt often."""

    def _blocks_ahead(self, sequence: Sequence, headroom: int) -> int:
        return super()._blocks_ahead(sequence, 0)


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a scheduler and fake ranks; the promises are asserted where they can first break."""

    @initialize(
        num_blocks=st.integers(5, 16),
        block_size=st.integers(1, 3),
        max_running=st.integers(2, 6),
        spare_tokens=st.integers(0, 12),
        chunk=st.integers(1, 8),
        prefix_reuse=st.sampled_from([True, True, True, False]),
        scheduler=st.sampled_from([Scheduler, EagerScheduler]),
        max_tokens_per_frame=st.integers(1, MAX_AHEAD),
    )
    def start(
        self,
        num_blocks: int,
        block_size: int,
        max_running: int,
        spare_tokens: int,
        chunk: int,
        prefix_reuse: bool,
        scheduler: type[Scheduler],
        max_tokens_per_frame: int,
    ) -> None:
        self.limits = BatchLimits(max_running, max_running + spare_tokens, chunk, 8, 80)
        self.pacer = PrefillPacer(2.0, self.limits.max_step_tokens)
        pool = BlockPool(num_blocks, block_size)
        run_ahead = RunAheadPolicy(max_tokens_per_frame=max_tokens_per_frame)
        self.scheduler = scheduler(pool, self.pacer, self.limits, prefix_reuse, run_ahead)
        self.ranks = FakeRanks(block_size)
        self.plan: StepPlan | None = None
        self.alive: list[Sequence] = []
        self.ended: set[Sequence] = set()  # cancelled or failed
        self.scored: dict[Sequence, list[int]] = {}

    @rule(
        tenants=st.lists(st.sampled_from("ab"), min_size=1, max_size=4),
        prompt=st.builds(list.__add__, st.sampled_from(PREFIXES), IDS),
        max_new=st.integers(1, 14),
        first_scored=st.sampled_from([None, None, None, 1, 4]),
        poison=st.sampled_from([None, None, None, 0, 3, 9]),
    )
    def add(
        self, tenants: list[str], prompt: list[int], max_new: int, first_scored: int | None, poison: int | None
    ) -> None:
        for tenant in tenants:
            if first_scored is None:
                self._add(Sequence(tenant, prompt, max_new), poison)
            else:
                self._add(Sequence(tenant, prompt, 0, kind=Kind.SCORE, first_scored=first_scored), None)

    @precondition(lambda self: len(self.alive) > 1)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.alive))
        held = sequence.block_table[:]
        self.scheduler.cancel(sequence)
        self.scheduler.cancel(sequence)
        if self.plan is None:
            assert sequence.state is State.FINISHED and not sequence.block_table
        else:
            assert sequence.block_table == held
        self.alive.remove(sequence)
        self.ended.add(sequence)

    @precondition(lambda self: self.plan is None)
    @rule(drafted=st.lists(st.tuples(st.integers(0, MAX_AHEAD - 1), st.booleans()), max_size=4))
    def make_plan(self, drafted: Iterable[tuple[int, bool]] = ()) -> None:
        before = self.scheduler.running
        decoding = [sequence for sequence in before if sequence.uncomputed == 1]
        for sequence, (count, is_last_wrong) in zip(decoding, drafted, strict=False):
            if sequence.kind is Kind.GENERATE:
                sequence.draft_ids = drafts(sequence, count, is_last_wrong)
        self.plan = plan = self.scheduler.plan()
        if plan is None:
            assert self.scheduler.idle
            return
        in_step = {row.sequence for row in plan.rows}
        oldest = min((*before, *self.scheduler.running), key=lambda sequence: sequence.arrival)
        assert oldest.state is State.RUNNING and oldest in in_step
        assert all(s in in_step or s.state is State.WAITING for s in decoding)
        lengths = {row.sequence: len(row.token_ids) for row in plan.rows}
        assert plan.decode_tokens == sum(lengths[sequence] for sequence in in_step.intersection(decoding))
        assert plan.decode_tokens + plan.prefill_tokens == sum(lengths.values()) <= self.limits.max_step_tokens
        assert plan.prefill_tokens <= self.pacer.allowance(plan.decode_tokens) or not plan.decode_tokens
        chunks = (len(row.token_ids) - len(row.draft_ids) for row in plan.rows)
        assert max(chunks) <= self.limits.max_prefill_chunk_tokens
        assert len(plan.rows) <= len(self.scheduler.running) <= self.limits.max_running

    @precondition(lambda self: self.plan is not None)
    @rule(finished=st.sets(st.integers(0, 20), max_size=1), duration_s=st.floats(1e-4, 1.0))
    def commit_plan(self, finished: set[int], duration_s: float) -> None:
        assert self.plan is not None
        rows = self.plan.rows
        self._commit({rows[index].sequence for index in finished if index < len(rows)}, duration_s)

    @precondition(lambda self: self.plan is None)
    @rule(count=st.integers(1, 6))
    def run_steps(self, count: int) -> None:
        for _ in range(count):
            self.make_plan()
            if self.plan is not None:
                self._commit(set(), 0.01)

    @precondition(lambda self: self.plan is not None or len(self.alive) > 2)
    @rule(change=st.none() | st.integers(4, 20))
    def lose_group(self, change: int | None) -> None:
        ids = {sequence: sequence.token_ids[:] for sequence in self.alive}
        block_size = self.scheduler.blocks.pool.block_size
        misfits = self.scheduler.on_group_lost(None if change is None else BlockPool(change, block_size))
        self.plan = None
        self.ranks.lose_epoch()
        self.alive = [sequence for sequence in self.alive if sequence not in misfits]
        self.ended.update(misfits)
        assert self.scheduler.running == () and list(self.scheduler.waiting) == self.alive
        assert all(ids[sequence] == sequence.token_ids for sequence in self.alive)

    @invariant()
    def books_balance(self) -> None:
        scheduler, cache = self.scheduler, self.scheduler.blocks
        scheduler.check_books()
        holders = Counter(block for sequence in scheduler.running for block in sequence.block_table)
        listed = {entry.block for entry in cache._entries.values()}
        for block in range(cache.pool.num_blocks):
            assert cache.pool.references(block) == holders[block] + (block in listed)
            assert holders[block] <= 1 or block in listed or self._once_listed(block)
        assert cache.pool.num_free + cache.num_idle + len(holders) == cache.pool.num_blocks
        assert scheduler.queued_tokens == sum(s.prompt_length for s in scheduler.waiting if not s.started)
        arrivals = [sequence.arrival for sequence in (*scheduler.running, *scheduler.waiting)]
        assert arrivals == sorted(arrivals)

    def teardown(self) -> None:
        """Whatever happened, all that is left ends within as many steps as there are tokens to compute."""
        if not hasattr(self, "scheduler"):
            return
        if self.plan is not None:
            self._commit(set(), 0.01)
        bound = sum(sequence.max_length for sequence in self.alive)
        while not self.scheduler.idle:
            self.make_plan()
            self._commit(set(), 0.01)
            self.books_balance()
            bound -= 1
            assert bound >= 0, "no progress"
        assert self.alive == []
        assert self.scheduler.blocks.num_idle == self.scheduler.blocks.num_cached

    def _add(self, sequence: Sequence, poison: int | None) -> None:
        pool = self.scheduler.blocks.pool
        try:
            self.scheduler.add(sequence)
        except InvalidRequest:
            too_long = sequence.max_length > pool.num_blocks * pool.block_size
            assert too_long or sequence.prompt_length == 0
        except Overloaded:
            assert len(self.scheduler.waiting) > 0
        else:
            self.alive.append(sequence)
            self.scored[sequence] = []
            if poison is not None:
                self.ranks.poisons[sequence] = poison

    def _once_listed(self, block: int) -> bool:
        """Blocks that a failed sequence shared are struck off while others go on with them."""
        return any(s in self.ended and s in self.ranks.poisons for s in self.scored)

    def _commit(self, finished: set[Sequence], duration_s: float) -> None:
        assert self.plan is not None
        tokens, unsound = self.ranks.run(self.plan)
        self.pacer.observe(self.plan.decode_tokens, self.plan.prefill_tokens, duration_s)
        self.scheduler.run_ahead.observe(hop_s=0.002, step_s=0.001, num_rows=len(self.plan.rows))
        for sequence in unsound & set(self.alive):
            self.scheduler.fail(sequence)
            self.alive.remove(sequence)
            self.ended.add(sequence)
        self.scheduler.commit(self.plan, decide(self.plan, tokens, finished))
        for row in self.plan.rows:
            sequence, first = row.sequence, row.base_length + len(row.token_ids) - row.scored + 1
            if sequence in self.ended:
                assert sequence.state is State.FINISHED and not sequence.block_table
                continue
            self.scored[sequence].extend(range(first, first + row.scored))
            assert [*row.scored_ids] == [*sequence.token_ids[first : first + row.scored]]
            if sequence.state is State.FINISHED:
                self.alive.remove(sequence)
                assert sequence.token_ids == expected_ids(sequence)
                if sequence.kind is Kind.SCORE:
                    assert self.scored[sequence] == [*range(sequence.first_scored, sequence.prompt_length)]
        self.plan = None


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
