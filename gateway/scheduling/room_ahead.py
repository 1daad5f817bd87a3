"""Room for positions beyond a sequence's known ids: drafts to verify, rows that ranks run ahead."""

from collections.abc import Collection

from gateway.scheduling.prefix_cache import PrefixCache
from gateway.scheduling.sequence import Sequence


def room_ahead(sequence: Sequence, wanted: int, blocks: PrefixCache) -> int:
    """Return for how many positions beyond its ids a decoding sequence has room, at most `wanted`.

    Takes free blocks for them, and never anybody's. The last token that may be drawn takes no position: it is never
    fed.
    """
    length, pool = len(sequence.token_ids), blocks.pool
    wanted = min(wanted, sequence.max_length - length - 1)
    if wanted <= 0:
        return 0
    missing = min(pool.blocks_for(length + wanted) - len(sequence.block_table), blocks.available)
    if missing > 0:
        sequence.block_table.extend(blocks.allocate(missing))
    return min(wanted, len(sequence.block_table) * pool.block_size - length)


def trim_drafts(running: Collection[Sequence], budget: int, are_waiting: bool, blocks: PrefixCache) -> int:
    """Cut the sequences' drafts to where there is room, `budget` ids in all; return how many ids are left.

    One id is left to who has a prompt to read, running or waiting: others' luck is not to hold it up. Where blocks are
    short none are taken for drafts: they would push out who is running.
    """
    if are_waiting or any(sequence.uncomputed != 1 for sequence in running):
        budget = max(budget - 1, 0)
    total, are_short = 0, blocks.available < 2 * len(running)
    for sequence in running:
        if sequence.draft_ids:
            wanted = 0 if are_short or sequence.uncomputed != 1 else min(len(sequence.draft_ids), budget - total)
            sequence.draft_ids = sequence.draft_ids[: room_ahead(sequence, wanted, blocks)]
            total += len(sequence.draft_ids)
    return total
