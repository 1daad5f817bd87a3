"""Which draft length does each request get from step to step, and when is one tried that does not seem to pay?"""

from collections.abc import Sequence
from math import inf

from gateway.limits import MAX_DRAFT_TOKENS
from gateway.speculation.acceptance import Acceptance
from gateway.speculation.draft_length import Row, choose_lengths
from gateway.speculation.step_costs import DraftCosts, StepCosts
from gateway.speculation.turn_overhead import TurnOverhead

PROBE_STEPS = 50
PROBE_BUDGET = 0.01  # share of all time that probes may cost
REST_ROWS = 4
# Rest begins when turns without a draft cost so many passes more than at rest; so much of one each time at least.
REST_COST_PASSES, LEAST_COST_PASSES = 0.6, 0.05
STRETCH_STEPS = 20  # once in so many a worker drafts one more than seems best: what longer drafts take is often a guess
LOOK_STEPS = 5  # in a batch at rest; PROBE_STEPS is a multiple
MOST_SLOWDOWN = 1.0  # of a row of such a batch for others' drafts, to be divided by the number of rows


class DraftLength:
    """One request's draft length from step to step: slow to leave 0 and to return to it, and never blind at 0.

    At 0 nothing is learned. So after PROBE_STEPS steps one token is drafted, and while such are accepted the next step
    drafts again: one token, or one more each time of a worker's, whose long drafts may pay where short ones do not.
    """

    def __init__(self, most: int | None = None) -> None:
        """`most` is the request's own bound; 0 never drafts, and never probes. None leaves it to measurement."""
        assert most is None or most >= 0
        self._most = MAX_DRAFT_TOKENS if most is None else most
        self._drafting: bool | None = None
        self._steps_at_zero = 0
        self._probed: tuple[Acceptance, int] | None = None  # how many had been accepted before the probe
        self._probe_length = 1
        self.tells = False  # the worker is to be told now what it missed, for a probe comes soon
        self._has_told = False
        self._steps_drafting = 0

    def row(
        self, acceptance: Acceptance, cap: int, waits: bool, probes_only: bool = False, ran_ahead: bool = False
    ) -> Row:
        """Return this request's row of the next step; `acceptance` is that of the source of its draft."""
        return Row(acceptance, min(cap, self._most), waits, self._drafting, probes_only, ran_ahead)

    @property
    def is_probing(self) -> bool:
        """Whether the step that was last settled is a probe."""
        return self._probed is not None

    @property
    def probe_gain(self) -> int:
        """How many drafted tokens were accepted where the last step was a probe."""
        return 0 if self._probed is None else self._probed[0].accepted - self._probed[1]

    def probe_length(self, row: Row, most: int) -> int:
        """Return how many tokens a probe in the next step drafts, where at most `most` may be."""
        goes_on = row.waits and self.probe_gain > 0
        longer = self._probe_length + (self.probe_gain == self._probe_length) if goes_on else 1
        return min(longer, row.cap, most)

    def steps_overdue(self) -> int:
        """Return since how many steps a probe is due; 0 while none is."""
        return 1 if self.probe_gain else max(self._steps_at_zero - PROBE_STEPS + 1, 0)

    def postpones(self, row: Row, reads_first: bool) -> bool:
        """Return whether a probe that is due comes in a later turn.

        A row that ran ahead cannot draft; that it wants to keeps the ranks from running ahead once more. With
        `reads_first` a worker reads what it missed at rest a turn before: else its answer would always come too late.
        """
        return row.ran_ahead or self._must_tell(row, reads_first)

    def _must_tell(self, row: Row, reads_first: bool) -> bool:
        return reads_first and row.waits and not self._has_told and not self.probe_gain

    def settle(self, row: Row, chosen: int, probe_length: int, steps: int = 1, reads_first: bool = False) -> int:
        """Return the next step's length: `chosen`, or that of a probe where that is 0. Once in `steps` steps."""
        if probe_length and not chosen and self.postpones(row, reads_first):
            self.tells = self._must_tell(row, reads_first)
            self._has_told, self._probed = True, None
            return 0 if self.tells else probe_length
        self.tells = self._has_told = False
        probe = probe_length > 0 and chosen == 0
        self._probed = (row.acceptance, row.acceptance.accepted) if probe else None
        if row.cap > 0:  # a step without anything to draft from decides nothing
            self._drafting = chosen > 0
            self._steps_at_zero = 0 if chosen or probe else self._steps_at_zero + steps
        self._probe_length = probe_length if probe else 1
        self._steps_drafting = self._steps_drafting + 1 if chosen and row.waits else 0
        return probe_length if probe else chosen

    def stretched(self, row: Row, chosen: int, most: int) -> int:
        """Return a drafting row's length, at times one more than was chosen."""
        is_due = self._steps_drafting > 0 and self._steps_drafting % STRETCH_STEPS == 0
        return min(chosen + is_due, row.cap, most)


class LengthControl:
    """All requests' draft lengths.

    At most one row probes in a step, so that rows at 0 do not all slow down the same one, and only as often as keeps
    the cost of probes, less what they earn, within PROBE_BUDGET: more tokens, and waiting for a draft that may be dead.
    In a batch of several at rest one does once in PROBE_STEPS, whoever is due and whatever came of it: there it costs
    what no budget sees, a frame of several tokens or rows that ran ahead, and a worker that reads a text for one token.
    """

    def __init__(
        self, costs: StepCosts, draft_costs: DraftCosts, most: int = MAX_DRAFT_TOKENS, fixed: bool = False
    ) -> None:
        """`most` is the deployment's bound; with 0 nothing is drafted. `fixed` is for measuring: no choice at all, each
        row drafts what its cap and `most` allow.
        """
        assert most >= 0
        self._costs = costs
        self._draft_costs = draft_costs
        self._most = most
        self._fixed = fixed
        self._longest_tried = 0
        self._debt_s = 0.0
        self._steps_without = 0
        self._steps_at_zero = 0  # of all rows, probes too
        self._forgone_passes = 0.0  # by what turns without a draft took more than they would have at rest

    @property
    def is_resting(self) -> bool:
        """Whether nothing but probes was drafted for a while: the ranks may run past what could be drafted."""
        return self._forgone_passes >= REST_COST_PASSES

    def rests_on(self, num_served: int) -> bool:
        """Return whether a batch at rest stays so for a step more without a look at its rows. Once a step."""
        if not self.is_resting or num_served < REST_ROWS or (self._steps_without + 1) % LOOK_STEPS == 0:
            return False
        self._steps_without += 1
        return True

    def goodput(self, acceptance: Acceptance, cap: int, waits: bool, num_rows: int, overhead: TurnOverhead) -> float:
        """Return the most expected tokens a second of a batch in which one row drafts, at least one token and at most
        `cap`; 0 until a step's time is known. As `choose_lengths` counts.
        """
        cap = min(cap, self._most)
        steps_s = self._costs.predict_each(num_rows, 1 + cap)
        if steps_s is None:
            return 0.0
        tokens, best = float(num_rows), 0.0
        for count, chance in enumerate(acceptance.prefix_chances(cap), start=1):
            tokens += chance
            wait_s = self._draft_costs.predict(count) if waits else 0.0
            best = max(best, tokens / (steps_s[count] + overhead.drafting_s + wait_s))
        return best

    def next_lengths(
        self,
        drafts: Sequence[DraftLength],
        rows: Sequence[Row],
        overhead: TurnOverhead,
        num_others: int = 0,
        passes: int = 1,
    ) -> list[int]:
        """Return the draft length of each of `rows`, which were made by `drafts`, for the next step. Once a step.

        What was drafted before must have been recorded in its Acceptance by now. `num_others` are served besides, but
        do not decode yet: where that makes several nobody drafts, for all wait for their prompts. The step before had
        so many `passes`.
        """
        if self._fixed or not rows:
            return [min(row.cap, self._most) for row in rows]
        overhead_s = overhead.drafting_s
        several = len(rows) + num_others >= REST_ROWS
        slowdown = 1 + MOST_SLOWDOWN / len(rows) if several else inf
        most = 0 if several and num_others else self._most
        wanted = choose_lengths(rows, self._costs, self._draft_costs, overhead_s, overhead.resting_s, most, slowdown)
        self._count(not any(wanted), overhead, len(rows))
        # At most one more than was tried, so that each length is measured once: steps may grow in stairs.
        lengths = [min(length, self._longest_tried + 1) for length in wanted]
        self._longest_tried = max(self._longest_tried, *lengths)
        step_s = self._costs.predict(len(rows) + sum(lengths))
        prober, probe_length, reads_first = None, 0, self.is_resting and not several
        if step_s is not None:
            gain = sum(draft.probe_gain for draft in drafts)
            earned_s = (step_s + overhead_s) * (PROBE_BUDGET * passes + gain / len(rows))
            self._debt_s = max(self._debt_s - earned_s, 0.0)
            if not (several and self.is_resting and self._steps_without % PROBE_STEPS):
                prober = self._prober(drafts, rows, lengths)
            if prober is not None:
                probe_length = 1 if several else drafts[prober].probe_length(rows[prober], self._most)
                if not drafts[prober].postpones(rows[prober], reads_first):
                    self._debt_s += self._probe_cost_s(rows, lengths, prober, probe_length, step_s)
        steps = LOOK_STEPS if self.is_resting and several else passes
        settled = [
            draft.settle(row, length, probe_length if index == prober else 0, steps, reads_first)
            for index, (draft, row, length) in enumerate(zip(drafts, rows, lengths, strict=True))
        ]
        self._steps_at_zero = 0 if any(settled) else self._steps_at_zero + steps
        if several:
            return settled
        stretched = [
            draft.stretched(row, length, self._most) for draft, row, length in zip(drafts, rows, settled, strict=True)
        ]
        self._longest_tried = max(self._longest_tried, *stretched)
        return stretched

    def _count(self, without: bool, overhead: TurnOverhead, num_rows: int) -> None:
        """Count a step without drafts, or begin anew."""
        if not without:
            self._steps_without, self._forgone_passes = 0, 0.0
            return
        self._steps_without += 1
        if pass_s := self._costs.predict(num_rows):
            self._forgone_passes += max((overhead.drafting_s - overhead.resting_s) / pass_s, LEAST_COST_PASSES)

    def _prober(self, drafts: Sequence[DraftLength], rows: Sequence[Row], lengths: Sequence[int]) -> int | None:
        """Return which row probes: of those that are at 0 and may draft, the one that is longest due."""
        if self._debt_s or self._most == 0:
            return None
        at_zero = (index for index, row in enumerate(rows) if lengths[index] == 0 and row.cap > 0)
        # Where every request is over before it would probe by itself, one does all the same.
        least = int(self._steps_at_zero >= PROBE_STEPS)
        overdue = [(max(drafts[index].steps_overdue(), least), -index) for index in at_zero]
        most_overdue, place = max(overdue, default=(0, 0))
        return -place if most_overdue else None

    def _probe_cost_s(
        self, rows: Sequence[Row], lengths: Sequence[int], prober: int, probe_length: int, step_s: float
    ) -> float:
        longer_s = self._costs.predict(len(rows) + sum(lengths) + probe_length) or step_s
        if not rows[prober].waits:
            return longer_s - step_s
        longest = max((length for row, length in zip(rows, lengths, strict=True) if row.waits), default=0)
        waits_s = [self._draft_costs.predict(count) for count in (longest, max(longest, probe_length))]
        return longer_s - step_s + waits_s[1] - waits_s[0]
