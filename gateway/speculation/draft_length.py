"""How many tokens to draft for each row of the next step?

As many as raise the batch's goodput, expected tokens over expected time (TurboSpec, arXiv 2406.14066): a drafted token
earns the chance that it and all before it are accepted, and costs what the step takes longer for one more token, and,
where the longest draft grows, what everybody waits longer for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from gateway.limits import MAX_DRAFT_TOKENS
from gateway.speculation.acceptance import Acceptance
from gateway.speculation.step_costs import DraftCosts, StepCosts

_HYSTERESIS = 0.05  # of the one token that a row brings without a draft


@dataclass(frozen=True, slots=True)
class Row:
    """What bounds and drives the draft of one row of the next step.

    cap: the most tokens that make sense: what the request allows, what it lacks less one, for n-grams what was found.
    waits: its draft comes from a worker that is waited for. drafting: it drafted last time; None where that is
    unknown, and nothing holds it to either side. probes_only: it may draft, but is not chosen for what that would earn.
    ran_ahead: the ranks have computed the step without a draft already, so that only the one after it can have one.
    """

    acceptance: Acceptance
    cap: int
    waits: bool
    drafting: bool | None = None
    probes_only: bool = False
    ran_ahead: bool = False


def choose_lengths(
    rows: Sequence[Row],
    costs: StepCosts,
    draft_costs: DraftCosts,
    overhead_s: float,
    overhead_without_s: float,
    most: int,
    most_slowdown: float = inf,
) -> list[int]:
    """Return the draft length of each row, 0 to its cap and at most `most`, that gives the best goodput.

    `overhead_s` is what a step takes beyond the ranks' time: transport, decision and the next plan;
    `overhead_without_s` the same where no row drafts. Draft tokens are taken in falling chance of their whole prefix,
    and of all such batches the one with the best goodput is chosen: the optimum where a step's time depends on its
    number of tokens only. Not only until goodput first falls, for waiting costs most at the first token, and steps may
    grow in stairs. All 0 until a step's time is known.

    No row's token may take longer than `most_slowdown` times what it takes where no row drafts: others' drafts lengthen
    the steps of a row that hardly gains, and rows that are over sooner leave it as many steps to go.
    """
    caps = [0 if row.probes_only else max(0, min(row.cap, most, MAX_DRAFT_TOKENS)) for row in rows]
    steps_s = costs.predict_each(len(rows), 1 + sum(caps)) if rows else None
    if steps_s is None:
        return [0] * len(rows)
    waits_s = [draft_costs.predict(count) for count in range(max(caps) + 1)]
    arrivals = [draft_costs.arrival_chance(count) for count in range(max(caps) + 1)]
    without_s = steps_s[0] + overhead_without_s
    best, best_goodput = [0] * len(rows), len(rows) / without_s
    most_value = max((_most_value(row) for row, cap in zip(rows, caps, strict=True) if cap), default=0.0)
    if all(
        len(rows) + drafted * most_value <= best_goodput * (step_s + overhead_s)
        for drafted, step_s in enumerate(steps_s)
    ):
        return best  # not even if every token were as good as the best; what follows takes a large batch a while
    most_s = without_s * most_slowdown
    if not all(caps) and min(steps_s[1:], default=inf) + overhead_s > most_s:
        return best
    order = _candidates(rows, caps)
    for longest in _worthwhile_limits(rows, caps, waits_s):
        taken: list[int] = []
        num_best, deepest, before = 0, 0, best_goodput
        tokens, waited_tokens = float(len(rows)), 0.0
        of_row = [1.0] * len(rows)
        for _, depth, index, value in order:
            if rows[index].waits:
                if depth > longest:
                    continue
                deepest = max(deepest, depth)
                waited_tokens += value
            else:
                tokens += value
            taken.append(index)
            of_row[index] += value * arrivals[deepest] if rows[index].waits else value
            turn_s = steps_s[len(taken)] + overhead_s + waits_s[deepest]
            goodput = (tokens + waited_tokens * arrivals[deepest]) / turn_s
            if goodput > best_goodput and turn_s <= most_s * min(of_row):
                best_goodput, num_best = goodput, len(taken)
        if best_goodput > before:
            best = [0] * len(rows)
            for index in taken[:num_best]:
                best[index] += 1
    return best


def _candidates(rows: Sequence[Row], caps: Sequence[int]) -> list[tuple[float, int, int, float]]:
    """Return all draft tokens as (key, depth from 1, row, value in expected tokens), the best first.

    A row's key never rises with depth, so that the order holds every prefix before what follows it.
    """
    candidates = []
    for index, (row, cap) in enumerate(zip(rows, caps, strict=True)):
        key = float("inf")
        for depth, chance in enumerate(row.acceptance.prefix_chances(cap), start=1):
            value = _first_value(row) if depth == 1 else chance
            key = min(key, value)
            candidates.append((-key, depth, index, value))
    return sorted(candidates)


def _first_value(row: Row) -> float:
    """Return what a row's first draft token is worth, in expected tokens."""
    held = 0.0 if row.drafting is None else _HYSTERESIS if row.drafting else -_HYSTERESIS
    return row.acceptance.chance(0) + held


def _most_value(row: Row) -> float:
    """Return the most that any of a row's draft tokens is worth."""
    return max(_first_value(row), row.acceptance.chance(0) * row.acceptance.chance(1))


def _worthwhile_limits(rows: Sequence[Row], caps: Sequence[int], waits_s: Sequence[float]) -> list[int]:
    """Return for which limits on the drafts that are waited for a best batch is to be sought.

    One without any wait, and each beyond which the wait grows.
    """
    most = max((cap for row, cap in zip(rows, caps, strict=True) if row.waits), default=0)
    return [count for count in range(most + 1) if count == most or waits_s[count] < waits_s[count + 1]]
