import random
from array import array
from collections.abc import Iterable

import pytest

from common.errors import InvalidRequest, Overloaded
from gateway.scheduling.admission import BatchLimits
from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.plan import StepPlan
from gateway.scheduling.prefill_pacer import MIN_CHUNK_TOKENS, PrefillPacer
from gateway.scheduling.scheduler import Scheduler
from gateway.scheduling.sequence import Kind, Sequence, State
from tests.gateway.scheduling.fake_ranks import FakeRanks, decide, expected_ids

SIZE = 4


def scheduler_of(num_blocks: int = 64, **changes: int) -> Scheduler:
    """Return a scheduler with blocks of 4 and roomy limits, `changes` aside."""
    limits = {
        "max_running": 8,
        "max_step_tokens": 64,
        "max_prefill_chunk_tokens": 64,
        "max_queued_requests": 100,
        "max_queued_tokens": 10_000,
    } | changes
    pacer = PrefillPacer(2.0, limits["max_step_tokens"])
    return Scheduler(BlockPool(num_blocks, SIZE), pacer, BatchLimits(**limits))


def add(scheduler: Scheduler, ids: Iterable[int], max_new: int = 8, tenant: str = "t") -> Sequence:
    """Add a generation."""
    sequence = Sequence(tenant, ids, max_new)
    scheduler.add(sequence)
    return sequence


def step(scheduler: Scheduler, ranks: FakeRanks, finished: Iterable[Sequence] = ()) -> StepPlan:
    """Plan, run and commit one step."""
    plan = scheduler.plan()
    assert plan is not None
    tokens, _ = ranks.run(plan)
    scheduler.commit(plan, decide(plan, tokens, set(finished)))
    return plan


def test_a_request_from_arrival_to_end() -> None:
    scheduler, ranks = scheduler_of(), FakeRanks(SIZE)
    sequence = add(scheduler, [0, 1, 2], max_new=3)
    assert scheduler.queued_tokens == 3 and scheduler.waiting == (sequence,)
    first = step(scheduler, ranks)
    assert first.opens == (sequence,) and (first.decode_tokens, first.prefill_tokens) == (0, 3)
    assert scheduler.running == (sequence,) and scheduler.queued_tokens == 0
    second = step(scheduler, ranks)
    assert second.opens == () and (second.decode_tokens, second.prefill_tokens) == (1, 0)
    step(scheduler, ranks)
    assert sequence.state is State.FINISHED and scheduler.idle and scheduler.plan() is None
    assert len(sequence.output_ids) == 3 and sequence.token_ids == expected_ids(sequence)


def test_closes_ride_along_with_the_next_step_that_has_rows() -> None:
    scheduler, ranks = scheduler_of(), FakeRanks(SIZE)
    first = add(scheduler, [0, 1])
    step(scheduler, ranks, finished=[first])
    assert scheduler.plan() is None
    never_opened = add(scheduler, [1, 1])
    scheduler.cancel(never_opened)
    assert scheduler.plan() is None
    second = add(scheduler, [2, 2])
    assert step(scheduler, ranks).closes == (first.number,)
    assert step(scheduler, ranks).closes == () and second.number != first.number


def test_decodes_are_in_every_step_beside_a_long_prompt() -> None:
    scheduler, ranks = scheduler_of(256), FakeRanks(SIZE)
    short = [add(scheduler, [n, n, n], max_new=200) for n in range(3)]
    step(scheduler, ranks)
    attacker = add(scheduler, range(500))
    steps = 0
    while attacker.uncomputed > 1:
        plan = step(scheduler, ranks)
        steps += 1
        assert {row.sequence for row in plan.rows} == {*short, attacker} and plan.decode_tokens == 3
        assert plan.prefill_tokens <= 61
    assert steps >= 500 // 61


def test_all_prefills_of_a_step_share_one_allowance() -> None:
    scheduler, ranks = scheduler_of(256, max_step_tokens=512, max_prefill_chunk_tokens=3), FakeRanks(SIZE)
    add(scheduler, [0], max_new=100)
    step(scheduler, ranks)
    for _ in range(50):
        scheduler.pacer.observe(1, 0, 0.01)
        scheduler.pacer.observe(1, 32, 10.0)
    assert scheduler.pacer.allowance(1) == MIN_CHUNK_TOKENS
    older, younger, _last = (add(scheduler, [n] * 40) for n in range(3))
    plan = step(scheduler, ranks)
    left = MIN_CHUNK_TOKENS - 3
    assert [(row.sequence, len(row.token_ids)) for row in plan.rows[1:]] == [(older, 3), (younger, left)]


def test_drafts_leave_a_token_to_who_reads_its_prompt() -> None:
    scheduler, ranks = scheduler_of(64, max_running=2, max_step_tokens=4), FakeRanks(SIZE)
    decoding = add(scheduler, [0], max_new=20)
    step(scheduler, ranks)
    reading = add(scheduler, [1] * 12)
    for _ in range(3):
        decoding.draft_ids = array("i", [7] * 8)
        plan = step(scheduler, ranks)
        assert reading in {row.sequence for row in plan.rows} and len(plan.rows[0].token_ids) >= 2


def test_a_request_that_can_never_fit_is_refused_at_once() -> None:
    scheduler = scheduler_of(num_blocks=4)
    with pytest.raises(InvalidRequest, match="17 tokens, new ones included, exceed the KV cache's 16"):
        add(scheduler, range(10), max_new=7)
    with pytest.raises(InvalidRequest, match="prompt: must hold at least one token"):
        add(scheduler, [])
    with pytest.raises(InvalidRequest, match="input: 17 tokens"):
        scheduler.add(Sequence("t", range(17), 0, kind=Kind.SCORE))
    add(scheduler, range(10), max_new=6)


def test_too_much_waiting_is_refused_and_a_refused_request_may_be_cancelled() -> None:
    scheduler = scheduler_of(max_running=1, max_queued_requests=1)
    add(scheduler, [1])
    add(scheduler, [2])
    refused = Sequence("t", [3], 1)
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        scheduler.add(refused)
    scheduler.cancel(refused)
    assert len(scheduler.waiting) == 2


def test_a_full_pool_takes_from_the_youngest_and_gives_back_in_order() -> None:
    scheduler, ranks = scheduler_of(num_blocks=9), FakeRanks(SIZE)
    old, young = add(scheduler, [0] * 7, max_new=25), add(scheduler, [1] * 7, max_new=25)
    while young.preemptions == 0:
        plan = step(scheduler, ranks)
    assert [row.sequence for row in plan.rows] == [old] and list(scheduler.waiting) == [young]
    assert old.preemptions == 0 and len(young.block_table) == 0 and not young.opened
    number, kept = young.number, young.token_ids[:]
    late = add(scheduler, [2], max_new=4)
    while young.state is State.WAITING:
        assert list(scheduler.waiting) == [young, late]
        plan = step(scheduler, ranks)
    assert young in plan.opens and young.number == number and young.token_ids[: len(kept)] == kept
    while not scheduler.idle:
        step(scheduler, ranks)
    for sequence in (old, young, late):
        assert sequence.token_ids == expected_ids(sequence) and sequence.state is State.FINISHED


def test_a_preempted_sequence_is_closed_and_comes_back_under_a_new_number() -> None:
    scheduler, ranks = scheduler_of(num_blocks=9), FakeRanks(SIZE)
    add(scheduler, [0] * 7, max_new=25)
    young = add(scheduler, [1] * 7, max_new=25)
    step(scheduler, ranks)
    number = young.number
    while young.preemptions == 0:
        plan = step(scheduler, ranks)
    assert number in plan.closes and young.number != number


@pytest.mark.parametrize("seed", range(3))
def test_under_pressure_nobody_is_preempted_more_than_four_times(seed: int) -> None:
    dice = random.Random(seed)
    scheduler, ranks = scheduler_of(num_blocks=60, max_running=16), FakeRanks(SIZE)
    everybody = [
        add(scheduler, dice.choices(range(3), k=dice.randint(1, 24)), max_new=dice.randint(4, 60)) for _ in range(60)
    ]
    while not scheduler.idle:
        step(scheduler, ranks)
    assert all(sequence.token_ids == expected_ids(sequence) for sequence in everybody)
    assert 0 < sum(sequence.preemptions for sequence in everybody) <= len(everybody)
    assert max(sequence.preemptions for sequence in everybody) <= 4


def test_a_cancel_while_a_plan_is_out_keeps_the_blocks_until_the_commit() -> None:
    scheduler, ranks = scheduler_of(), FakeRanks(SIZE)
    sequence = add(scheduler, [0, 1, 2])
    plan = scheduler.plan()
    assert plan is not None
    tokens, _ = ranks.run(plan)
    scheduler.cancel(sequence)
    assert sequence in scheduler.running and len(sequence.block_table) == 1
    scheduler.commit(plan, decide(plan, tokens, set()))
    assert sequence.state is State.FINISHED and len(sequence.block_table) == 0
    assert len(sequence.output_ids) == 0 and scheduler.idle


def test_a_failed_sequence_leaves_nothing_in_the_prefix_cache() -> None:
    scheduler, ranks = scheduler_of(), FakeRanks(SIZE)
    healthy = add(scheduler, [0] * 9)
    step(scheduler, ranks)
    assert scheduler.blocks.num_cached == 2
    failing = add(scheduler, [0] * 13)
    plan = scheduler.plan()
    assert plan is not None and failing.cached_prompt_tokens == 8
    scheduler.fail(failing)
    scheduler.cancel(failing)
    scheduler.commit(plan, decide(plan, ranks.run(plan)[0], set()))
    assert scheduler.blocks.num_cached == 0 and scheduler.running == (healthy,)
    assert add(scheduler, [0] * 13).state is State.WAITING
    assert step(scheduler, ranks).rows[1].base_length == 0


def test_what_is_not_known_to_be_sound_is_not_shared_yet() -> None:
    scheduler, ranks = scheduler_of(max_prefill_chunk_tokens=8), FakeRanks(SIZE)
    add(scheduler, [0] * 12)
    step(scheduler, ranks)
    assert scheduler.blocks.num_cached == 0
    step(scheduler, ranks)
    assert scheduler.blocks.num_cached == 3


def test_a_lost_group_loses_no_token_and_no_place() -> None:
    scheduler, ranks = scheduler_of(max_running=2), FakeRanks(SIZE)
    everybody = [add(scheduler, [n] * 5, max_new=9) for n in range(3)]
    for _ in range(3):
        step(scheduler, ranks)
    scheduler.plan()
    scheduler.cancel(everybody[1])
    ids = everybody[0].token_ids[:]
    assert scheduler.on_group_lost() == []
    ranks.lose_epoch()
    assert scheduler.waiting == (everybody[0], everybody[2]) and everybody[0].token_ids == ids
    assert everybody[1].state is State.FINISHED and scheduler.blocks.pool.num_free == 64
    plan = step(scheduler, ranks)
    assert plan.closes == () and set(plan.opens) == {everybody[0], everybody[2]}
    while not scheduler.idle:
        step(scheduler, ranks)
    assert everybody[0].token_ids == expected_ids(everybody[0])


def test_a_smaller_group_names_those_that_no_longer_fit() -> None:
    scheduler, ranks = scheduler_of(), FakeRanks(SIZE)
    long, short = add(scheduler, [0] * 20), add(scheduler, [1] * 4)
    step(scheduler, ranks)
    assert scheduler.on_group_lost(BlockPool(3, SIZE)) == [long]
    assert long.state is State.FINISHED and scheduler.waiting == (short,)


def test_a_score_ends_with_its_prompt_and_is_asked_for_each_token_once() -> None:
    scheduler, ranks = scheduler_of(max_prefill_chunk_tokens=3), FakeRanks(SIZE)
    sequence = Sequence("t", range(10), 0, kind=Kind.SCORE, first_scored=2)
    scheduler.add(sequence)
    scored: list[int] = []
    while not scheduler.idle:
        for row in step(scheduler, ranks).rows:
            scored.extend(row.scored_ids)
    assert scored == [*range(2, 10)] and sequence.state is State.FINISHED


def test_a_tenant_reuses_its_own_prefix_only() -> None:
    scheduler, ranks = scheduler_of(), FakeRanks(SIZE)
    add(scheduler, [0] * 10, tenant="a")
    step(scheduler, ranks)
    same, other = add(scheduler, [0] * 10, tenant="a"), add(scheduler, [0] * 10, tenant="b")
    step(scheduler, ranks)
    assert (same.cached_prompt_tokens, other.cached_prompt_tokens) == (8, 0)


def test_plans_and_commits_alternate() -> None:
    scheduler = scheduler_of()
    add(scheduler, [0])
    plan = scheduler.plan()
    assert plan is not None
    with pytest.raises(AssertionError, match="not committed"):
        scheduler.plan()
    with pytest.raises(AssertionError, match="one outcome per sampled row"):
        scheduler.commit(plan, [])
