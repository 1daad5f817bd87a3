"""Which KV blocks of the draft's engine are free."""


class BlockPool:
    """Blocks 0 .. num_blocks - 1, each with one holder at most."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """How many blocks nobody holds."""
        return len(self._free)

    @property
    def used_tokens(self) -> int:
        """How many positions the held blocks have."""
        return (self.num_blocks - len(self._free)) * self.block_size

    def extend(self, blocks: list[int], length: int) -> bool:
        """Add blocks to the table until it holds `length` positions; False, and nothing changed, where too few are
        free.
        """
        missing = -(-length // self.block_size) - len(blocks)
        if missing > len(self._free):
            return False
        blocks += [self._free.pop() for _ in range(missing)]
        return True

    def give_back(self, blocks: list[int]) -> None:
        """Take back what a holder no longer needs."""
        self._free += blocks
