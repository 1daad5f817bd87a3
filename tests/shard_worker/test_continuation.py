"""A continued step answers what so many steps would have: the same records, in row order, and the same slices."""

import numpy as np
import pytest

from common.arrays import U32, from_wire
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, make_plan, merged_greedy, merged_rows
from tests.support.three_sequences import BLOCKS, PROMPTS, opened

WIDTH = 2  # of the lists of noised candidates


class Streams:
    """Three sequences, prefilled together; every step's records, position by position for each sequence."""

    def __init__(self, ranks: LocalRanks, ahead: int, continued: int = 0) -> None:
        ranks.driver()
        self._ranks, self._ahead = ranks, ahead
        self.ids = [list(prompt) for prompt in PROMPTS]
        self.records: list[list[tuple[bytes, ...]]] = [[], [], []]
        self.results: list[pb.StepResult] = []
        rows = [PlanRow(s, 0, self.ids[s], BLOCKS[s], 1, (), ahead, continued) for s in range(3)]
        self._run(make_plan(rows, [opened(index) for index in range(3)]), (0, 1, 2), 1 + continued)

    def decode(self, order: tuple[int, ...], continued: int = 0) -> None:
        """Run a decode of the sequences in this order, each continued so many times."""
        rows = [
            PlanRow(s, len(self.ids[s]) - 1, self.ids[s][-1:], BLOCKS[s], 1, (), self._ahead, continued) for s in order
        ]
        self._run(make_plan(rows, num_noised=WIDTH), order, 1 + continued)

    def _run(self, plan: pb.Plan, order: tuple[int, ...], count: int) -> None:
        self.results = list(self._ranks.run(plan))
        winners = merged_greedy(self.results)
        assert len(winners) == count * len(order)
        for place, sequence in enumerate(order):
            for position in range(place * count, (place + 1) * count):
                self.ids[sequence].append(winners[position])
                self.records[sequence].append(tuple(_record(result, position) for result in self.results))


def _record(result: pb.StepResult, position: int) -> bytes:
    """All that a rank answered for one sampled position."""
    lists = (result.noised_ids, result.noised_scores, result.noised_processed, result.noised_raw)
    parts = [from_wire(data, U32, (-1, WIDTH), "list")[position] for data in lists]
    parts += [from_wire(data, U32, (-1, 1), "sum")[position] for data in (result.processed_lse, result.raw_lse)]
    record: bytes = np.concatenate(parts).tobytes()
    return record


def one_at_a_time(ranks: LocalRanks, steps: int) -> Streams:
    streams = Streams(ranks, ahead=0)
    for _ in range(steps):
        streams.decode((0, 1, 2))
    return streams


def is_native(ranks: LocalRanks) -> bool:
    """PyTorch's products may round otherwise when other rows stand beside a row; native ones do not."""
    return ranks.engines[0]._forward.native is not None


@pytest.mark.parametrize("ahead", [0, 1])
def test_records_are_those_of_single_steps(ranks: LocalRanks, ahead: int) -> None:
    expected = one_at_a_time(ranks, 10)
    streams = Streams(ranks, ahead)
    streams.decode((0, 1, 2), continued=3)
    was_ahead = []
    for order, continued in (((2, 0, 1), 1), ((0, 1, 2), 0), ((0, 1, 2), 2)):
        streams.decode(order, continued)
        was_ahead.append(any(result.ahead_ns for result in streams.results))
    assert was_ahead == [bool(ahead)] * 3
    assert streams.ids == expected.ids
    if is_native(ranks):
        assert streams.records == expected.records


@pytest.mark.parametrize("ahead", [0, 1])
def test_rows_that_read_several_ids_go_on_as_well(ranks: LocalRanks, ahead: int) -> None:
    expected = one_at_a_time(ranks, 4)
    streams = Streams(ranks, ahead, continued=3)
    streams.decode((0, 1, 2))
    assert any(result.ahead_ns for result in streams.results) == bool(ahead)
    assert streams.ids == expected.ids
    if is_native(ranks):
        assert streams.records == expected.records


def test_what_lies_behind_another_token_is_dead(ranks: LocalRanks) -> None:
    """The gateway drew other tokens than the ranks fed, at different places of the frame."""
    results = []
    for continued in (3, 0):
        streams = Streams(ranks, ahead=int(continued > 0))
        prompts = [len(ids) for ids in streams.ids]
        for _ in range(1 if continued else 4):
            streams.decode((0, 1, 2), continued)
        for sequence, (kept, token) in enumerate([(1, 77), (2, 78), (0, 79)]):
            del streams.ids[sequence][prompts[sequence] + kept :]
            streams.ids[sequence].append(token)
        streams.decode((0, 1, 2))
        streams.decode((0, 1, 2), continued)
        for _ in range(0 if continued else 3):
            streams.decode((0, 1, 2))
        results.append(streams.ids)
    assert results[0] == results[1]


def test_every_position_can_be_resolved(ranks: LocalRanks) -> None:
    streams = Streams(ranks, ahead=1)
    streams.decode((0, 1, 2), continued=2)
    whole = [merged_rows(ranks.resolve(position)) for position in range(9)]
    single = Streams(ranks, ahead=0)
    for step in range(3):
        single.decode((0, 1, 2))
        for sequence in range(3):
            expected = merged_rows(ranks.resolve(sequence))
            atol = 0 if is_native(ranks) else 1e-5
            np.testing.assert_allclose(whole[3 * sequence + step], expected, atol=atol, rtol=0)
