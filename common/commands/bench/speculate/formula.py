"""How fast should each cell have been? The formula of speculation, its few numbers taken from all draft lengths."""

from collections.abc import Sequence
from statistics import fmean, linear_regression

from common.commands.bench.speculate.cell import Cell, Key


def predicted_tokens_per_s(cells: Sequence[Cell]) -> dict[Key, float]:
    """Return what the formula says of every cell that has passes, tokens per second of one stream.

    Expected tokens of a pass over its expected time, as Leviathan et al. 2023 (arXiv 2211.17192) have it: with drafts
    for every pass and one chance a for all positions, (1 - a^(K+1)) / (1 - a) over t (1 + c K). Here each position has
    its own chance, that a pass drafts so far and all of it is accepted. t, a pass without a draft, and t c, what each
    drafted token adds in drafting, waiting and verification, are a line through the measured passes.

    Both are taken from all draft lengths of the same proposer and temperature, so that a cell that departs from its
    prediction departs from what the other lengths say: a step that costs more than its neighbours, or noise.
    """
    predicted = {}
    for cell in cells:
        if not cell.passes:
            continue
        alike = [other for other in cells if other.passes and _alike(other.key, cell.key)]
        tokens = 1 + sum(_accepted_per_pass(alike, cell.key.max_draft_tokens))
        predicted[cell.key] = tokens / _pass_s(alike, _drafted_per_pass(cell))
    return predicted


def _alike(key: Key, other: Key) -> bool:
    return (key.proposer, key.temperature) == (other.proposer, other.temperature)


def _drafted_per_pass(cell: Cell) -> float:
    return sum(cell.drafted_at) / cell.passes


def _pass_s(cells: Sequence[Cell], drafted: float) -> float:
    """Return the expected time from pass to pass with so many drafted tokens, the wait for them included."""
    tokens = [_drafted_per_pass(cell) for cell in cells]
    times_s = [cell.decode_ns / cell.passes / 1e9 for cell in cells]
    if len(set(tokens)) < 2:
        return fmean(times_s)
    slope_s, plain_s = linear_regression(tokens, times_s)
    # What was measured at short drafts says nothing of a pass faster than all that were seen.
    return max(plain_s + slope_s * drafted, min(times_s))


def _accepted_per_pass(cells: Sequence[Cell], length: int) -> list[float]:
    """Return, for each of the first `length` draft positions, the share of passes that accepted a token there.

    A position's passes are those of all cells whose draft length reaches it.
    """
    shares = []
    for position in range(length):
        reaching = [cell for cell in cells if cell.key.max_draft_tokens > position]
        accepted = sum(cell.accepted_at[position] for cell in reaching if len(cell.accepted_at) > position)
        shares.append(accepted / max(1, sum(cell.passes for cell in reaching)))
    return shares
