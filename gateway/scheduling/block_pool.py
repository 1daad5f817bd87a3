"""Which KV blocks are free, and how many holders each of the others has."""

from collections.abc import Iterable

import numpy as np


class BlockPool:
    """Reference-counted block ids 0 to num_blocks - 1, of `block_size` positions each.

    Callers keep the rules (never take more than is free, never give back twice); a breach is our own bug and
    raises AssertionError.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._references = np.zeros(num_blocks, dtype=np.int32)
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Number of blocks nobody holds."""
        return len(self._free)

    def blocks_for(self, positions: int) -> int:
        """Return the number of blocks that `positions` positions fill, the last one perhaps in part."""
        return -(-positions // self.block_size)

    def references(self, block: int) -> int:
        """Return the number of holders of `block`."""
        return int(self._references[block])

    def allocate(self, count: int) -> list[int]:
        """Take `count` free blocks, each with one holder."""
        assert 0 <= count <= len(self._free), f"{count} blocks wanted, {len(self._free)} free"
        first = len(self._free) - count
        blocks = self._free[first:]
        del self._free[first:]
        self._references[blocks] = 1
        return blocks

    def retain(self, block: int) -> None:
        """Add a holder to a block that has one already."""
        assert self._references[block] > 0, f"block {block} is free"
        self._references[block] += 1

    def release(self, block: int) -> int:
        """Take one holder away; return how many are left. Without holders a block is free."""
        left = int(self._references[block]) - 1
        assert left >= 0, f"block {block} is free already"
        self._references[block] = left
        if left == 0:
            self._free.append(block)
        return left

    def check_books(self, held: Iterable[int]) -> None:
        """Check free + used = total, and that all references together are what the holders say they hold.

        `held` is the number of blocks of each holder. Raises AssertionError.
        """
        used = int(np.count_nonzero(self._references))
        if len(self._free) + used != self.num_blocks:
            raise AssertionError(f"{len(self._free)} free + {used} used blocks != {self.num_blocks}")
        if (references := int(self._references.sum())) != (expected := sum(held)):
            raise AssertionError(f"{references} references to blocks, but {expected} are held")
