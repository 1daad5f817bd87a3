"""One native call answers what model, head and draw do one after the other: the same bits, whatever the rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest

from shard_worker.native.decoder import NativeDecoder
from shard_worker.native.passes import NativePasses
from tests.support.answered import records
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, greedy_open, make_plan, merged_greedy
from tests.support.three_sequences import BLOCKS, PROMPTS, opened
from tests.support.tiny_model import TinyModel


@contextmanager
def local_ranks(model: TinyModel, tp: int, at_once: bool) -> Iterator[LocalRanks]:
    """Ranks in native code that run steps by one call, or never; whether they do is checked."""
    calls = mock.Mock(side_effect=NativeDecoder.run_passes)
    never = mock.patch.object(NativePasses, "takes", lambda *_: False)
    counted = mock.patch.object(NativeDecoder, "run_passes", lambda *arguments: calls(*arguments))
    with LocalRanks(model.folder, tp=tp, native="on") as ranks, counted:
        if at_once:
            yield ranks
        else:
            with never:
                yield ranks
    assert bool(calls.called) == at_once


def answers(ranks: LocalRanks) -> list[list[bytes]]:
    """Prefill, frames of several passes, drafts, scores and a newcomer: two sequences, one greedy and one drawn."""
    ids, made = [list(prompt) for prompt in PROMPTS[:2]], list[list[bytes]]()

    def run(rows: list[PlanRow], passes: int = 1, opening: bool = False) -> None:
        plan = make_plan(rows, [opened(0), opened(1)] if opening else [], num_noised=3, num_raw=2)
        plan.num_top = 4
        results = ranks.run(plan)
        made.append(records(results))
        winners = merged_greedy(results)
        for place, row in enumerate(rows):
            ids[row.sequence] += winners[place * passes : (place + 1) * passes]
        made.append([part.SerializeToString() for part in ranks.resolve(len(winners) - 1)])

    def last(sequence: int, sampled: int = 1, run_ahead: int = 0, continued: int = 0) -> PlanRow:
        base = len(ids[sequence]) - sampled
        return PlanRow(sequence, base, ids[sequence][base:], BLOCKS[sequence], sampled, (), run_ahead, continued)

    run([PlanRow(s, 0, ids[s], BLOCKS[s], 1, run_ahead=1) for s in (0, 1)], opening=True)
    run([last(0, run_ahead=1, continued=3), last(1, run_ahead=1, continued=3)], passes=4)
    run([last(0, run_ahead=1), last(1)])
    run([last(1, continued=2), last(0, run_ahead=1, continued=2)], passes=3)
    run([last(0, run_ahead=1, continued=1)], passes=2)
    made.append(records(ranks.run(make_plan([last(0, sampled=4), last(1)]))))
    scored = PlanRow(0, len(ids[0]) - 3, ids[0][-3:], BLOCKS[0], 2, [5, 6, 7])
    made.append(records(ranks.run(make_plan([scored, last(1)]))))
    return made


@pytest.mark.parametrize("tp", [1, 2])
def test_one_call_is_the_same_bits(tiny_model: TinyModel, tp: int) -> None:
    made = []
    for at_once in (True, False):
        with local_ranks(tiny_model, tp, at_once) as ranks:
            ranks.driver()
            made.append(answers(ranks))
    assert made[0] == made[1]


@pytest.mark.parametrize("at_once", [True, False])
def test_equal_scores_go_to_the_lowest_id(tiny_model: TinyModel, at_once: bool) -> None:
    """All slices come to the same best score, and rank 0's first id is fed, pass after pass."""
    with local_ranks(tiny_model, 2, at_once) as ranks:
        ranks.driver()
        for engine in ranks.engines:
            native = engine._forward.native
            assert isinstance(native, NativeDecoder)
            native.head.kept[0].zero_()
        ranks.run(make_plan([PlanRow(0, 0, PROMPTS[0], BLOCKS[0], 1)], [greedy_open(0)]))
        first = PlanRow(0, len(PROMPTS[0]), [0], BLOCKS[0], 1, continued=2)
        frame = ranks.run(make_plan([first]))
        assert merged_greedy(frame) == [0, 0, 0]
        # The last pass fed id 0 as well: what it left in the cache is what a step on id 0 leaves.
        cached = [engine._forward.cache.layer(0).clone() for engine in ranks.engines]
        for place in range(3):
            ranks.run(make_plan([PlanRow(0, len(PROMPTS[0]) + place, [0], BLOCKS[0], 1)]))
        assert all(
            engine._forward.cache.layer(0).equal(before) for engine, before in zip(ranks.engines, cached, strict=True)
        )


def test_what_a_peer_s_loss_raises_comes_through(tiny_model: TinyModel) -> None:
    with local_ranks(tiny_model, 2, at_once=True) as ranks:
        ranks.driver()
        lost = ConnectionError("a rank was lost")
        with (
            mock.patch.object(type(ranks.engines[0]._group), "all_reduce", side_effect=lost),
            pytest.raises(ConnectionError, match="a rank was lost"),
        ):
            ranks.run(make_plan([PlanRow(0, 0, PROMPTS[0], BLOCKS[0], 1)], [greedy_open(0)]))
