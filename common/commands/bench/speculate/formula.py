"""How fast should each cell have been? The formula of speculation, from chances and costs that were measured apart."""

from collections.abc import Iterable, Sequence

from common.commands.bench.speculate.cell import Cell, Key


def predicted_tokens_per_s(cells: Sequence[Cell]) -> dict[Key, float]:
    """Return what the formula says of every cell that it can say something of, tokens per second of one stream.

    Expected tokens of a pass over its expected time. The tokens are one, and for each draft position the chance that a
    pass drafts so far and all of it is accepted; with drafts for every pass and the same chance a at every position
    this is (1 - a^(K+1)) / (1 - a) of Leviathan et al. 2023 (arXiv 2211.17192). The time is a pass of 1 + K tokens and
    the wait for its draft.

    No cell predicts itself alone: chances are those of all draft lengths of the same proposer and temperature, costs
    those of all temperatures of the same proposer and draft length.
    """
    predicted = {}
    for cell in cells:
        key = cell.key
        pass_s = _seconds_per_pass(c for c in cells if _costs_alike(c.key, key))
        chances = _accepted_per_pass([c for c in cells if _drafts_alike(c.key, key)], key.max_draft_tokens)
        if pass_s:
            predicted[key] = (1 + sum(chances)) / pass_s
    return predicted


def _costs_alike(key: Key, other: Key) -> bool:
    return (key.proposer, key.max_draft_tokens) == (other.proposer, other.max_draft_tokens)


def _drafts_alike(key: Key, other: Key) -> bool:
    return (key.proposer, key.temperature) == (other.proposer, other.temperature)


def _seconds_per_pass(cells: Iterable[Cell]) -> float | None:
    """Return the mean time from pass to pass, the wait for drafts included; None without any pass."""
    passes, decode_ns = 0, 0
    for cell in cells:
        passes += cell.passes
        decode_ns += cell.decode_ns
    return decode_ns / passes / 1e9 if passes else None


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
