"""What is run ahead is what would have been computed, bit for bit; what is not confirmed leaves nothing behind."""

import numpy as np

from common.arrays import F32, from_wire
from tandem.shard.v1 import shard_service_pb2 as pb
from tests.support.answered import records
from tests.support.local_ranks import LocalRanks
from tests.support.plans import PlanRow, greedy_open, make_plan, merged_greedy, merged_rows
from tests.support.three_sequences import BLOCKS, PROMPTS, opened


class Session:
    """Three sequences, prefilled together; `ahead` says whether rows may be run ahead at all."""

    def __init__(self, ranks: LocalRanks, ahead: bool) -> None:
        ranks.driver()
        self._ranks, self._ahead = ranks, int(ahead)
        self.ids = [list(prompt) for prompt in PROMPTS]
        rows = [PlanRow(i, 0, self.ids[i], BLOCKS[i], 1, (), self._ahead) for i in range(3)]
        self.results = [self._run(make_plan(rows, [opened(i) for i in range(3)]))]
        self.winners = merged_greedy(self.results[0])

    def decode(
        self, order: tuple[int, ...], tokens: dict[int, int] | None = None, others: tuple[PlanRow, ...] = ()
    ) -> None:
        """Run a decode of the sequences in this order: on their winners, or on `tokens`; `others` come last."""
        rows = []
        for index in order:
            self.ids[index].append((tokens or {}).get(index, self.winners[index]))
            rows.append(
                PlanRow(index, len(self.ids[index]) - 1, self.ids[index][-1:], BLOCKS[index], 1, (), self._ahead)
            )
        results = self._run(make_plan([*rows, *others], [greedy_open(row.sequence) for row in others]))
        for index, winner in zip(order, merged_greedy(results), strict=False):
            self.winners[index] = winner
        self.results.append(results)

    def _run(self, plan: pb.Plan) -> list[pb.StepResult]:
        return list(self._ranks.run(plan))


def script(session: Session) -> None:
    """Every way in which the next plan can relate to what was run ahead."""
    session.decode((0, 1, 2))  # all confirmed, in order
    session.decode((2, 0, 1))  # all confirmed, in another order
    session.decode((1,))  # one alone: two die
    session.decode((0, 1, 2))  # one confirmed, two that were not run ahead the last time
    session.decode((0, 1, 2), tokens={1: 77})  # another token than the winner's
    session.decode((0, 1, 2), tokens={0: 1, 1: 2, 2: 3})  # none confirmed
    session.decode((2, 1, 0), others=(PlanRow(9, 0, [4, 5, 6], [30], 2, [6, 7]),))  # beside a newcomer, scored too
    session.decode((0, 2))


def test_records_are_the_same_bits(ranks: LocalRanks) -> None:
    plain = Session(ranks, False)
    script(plain)
    ahead = Session(ranks, True)
    script(ahead)
    assert ahead.ids == plain.ids
    for mine, expected in zip(ahead.results, plain.results, strict=True):
        if native(ranks):
            assert records(mine) == records(expected)
        else:
            assert_close(mine, expected)
    was_ahead = [bool(results[0].ahead_ns) for results in ahead.results]
    # The first step, and the one without a confirmed row, were not begun before they were asked for.
    assert was_ahead == [False, True, True, True, True, True, False, True, True]
    assert not any(result.ahead_ns for results in plain.results for result in results)


def native(ranks: LocalRanks) -> bool:
    """PyTorch's products may round otherwise when other rows stand beside a row; native ones do not."""
    return ranks.engines[0]._forward.native is not None


def assert_close(mine: list[pb.StepResult], expected: list[pb.StepResult]) -> None:
    for one, other in zip(mine, expected, strict=True):
        assert one.noised_ids == other.noised_ids
        scores = [from_wire(result.noised_scores, F32, (-1,), "noised_scores") for result in (one, other)]
        assert abs(scores[0] - scores[1]).max() < 1e-5


def test_resolve_still_tells_of_the_last_step(ranks: LocalRanks) -> None:
    rows = []
    for ahead in (False, True):
        Session(ranks, ahead).decode((0, 1, 2))
        rows.append([merged_rows(ranks.resolve(position)) for position in range(3)])
    for mine, expected in zip(*rows, strict=True):
        np.testing.assert_allclose(mine, expected, atol=0 if native(ranks) else 1e-5, rtol=0)


def test_an_attach_forgets_it(ranks: LocalRanks) -> None:
    session = Session(ranks, True)
    row = PlanRow(0, len(PROMPTS[0]), [session.winners[0]], BLOCKS[0], 1)
    ranks.driver()
    (result, *_) = ranks.run(make_plan([row], [greedy_open(0)]))
    assert result.ahead_ns == 0
