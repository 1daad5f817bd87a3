"""Which KV blocks already hold a given prefix of a given tenant.

Full blocks only. A block is found by a hash that chains over the tenant and all ids up to its end, and a hit
counts only if the tenant, the block's ids and the entry of the block before are the very same: by induction
the whole prefix is compared, and a collision of hashes can cost a hit but never share a wrong block.
"""

from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from gateway.scheduling.block_pool import BlockPool
from gateway.scheduling.sequence import Sequence

ROOT_SERIAL = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One cached block. `serial` is never reused; `parent` is that of the block before, or ROOT_SERIAL."""

    serial: int
    parent: int
    tenant: str
    key: bytes
    ids: bytes
    block: int


class PrefixCache:
    """The pool's blocks as sequences see them: new ones, and shared ones that hold their prefix already.

    The cache is a holder of every block it lists. A listed block that no sequence holds is idle, and is
    evicted, least recently used first, when the pool runs out: free + idle + held by sequences = total.
    """

    def __init__(self, pool: BlockPool, enabled: bool = True) -> None:
        self.pool = pool
        self.enabled = enabled
        self._entries: dict[bytes, Entry] = {}
        self._by_block: dict[int, Entry] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._last_serial = ROOT_SERIAL

    @property
    def num_cached(self) -> int:
        """Number of listed blocks."""
        return len(self._entries)

    @property
    def num_idle(self) -> int:
        """Number of listed blocks that no sequence holds."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Number of blocks that `allocate` can give."""
        return self.pool.num_free + len(self._idle)

    def match(self, sequence: Sequence) -> list[Entry]:
        """Return the entries of the longest cached prefix of `sequence` that it may reuse. Takes nothing."""
        hits: list[Entry] = []
        parent = ROOT_SERIAL
        for index in range(sequence.reusable // self.pool.block_size if self.enabled else 0):
            entry = self._lookup(sequence, index, parent)
            if entry is None:
                break
            hits.append(entry)
            parent = entry.serial
        return hits

    def num_in_use(self, entries: Iterable[Entry]) -> int:
        """Return how many of the entries' blocks a sequence holds already: claiming those uses up nothing."""
        return sum(entry.block not in self._idle for entry in entries)

    def claim(self, sequence: Sequence, hits: list[Entry]) -> None:
        """Make the blocks of `hits`, which `match` has just returned, the first blocks of `sequence`."""
        assert not sequence.block_table
        for entry in hits:
            self.pool.retain(entry.block)
            self._idle.pop(entry.block, None)
            sequence.block_table.append(entry.block)
        sequence.num_computed = len(hits) * self.pool.block_size
        sequence.num_published = len(hits)
        sequence.published_serial = hits[-1].serial if hits else ROOT_SERIAL

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks, at most `available`; idle ones are evicted as needed."""
        while self.pool.num_free < count:
            block, _ = self._idle.popitem(last=False)
            self._drop(self._by_block[block])
        return self.pool.allocate(count)

    def release(self, sequence: Sequence) -> None:
        """Give back all blocks of `sequence`."""
        # Last block first: within a prefix the end is evicted before what it hangs on.
        for block in reversed(sequence.block_table):
            if self.pool.release(block) == 1 and block in self._by_block:
                self._idle[block] = None
        sequence.forget_blocks()

    def publish(self, sequence: Sequence) -> None:
        """List the full computed blocks of `sequence`, whose computed positions are known to be sound."""
        num_full = sequence.num_computed // self.pool.block_size
        if num_full == sequence.num_published or not self.enabled:
            return
        if not self._is_listed(sequence):
            sequence.num_published, sequence.published_serial = 0, ROOT_SERIAL
        for index in range(sequence.num_published, num_full):
            parent = sequence.published_serial
            entry = self._lookup(sequence, index, parent) or self._insert(sequence, index, parent)
            sequence.published_serial = entry.serial
        sequence.num_published = num_full

    def forget(self, sequence: Sequence) -> None:
        """Strike the blocks of `sequence` off the list: what they hold is not to be trusted."""
        for block in sequence.block_table:
            if (entry := self._by_block.get(block)) is not None:
                self._drop(entry)

    def reset(self) -> None:
        """Strike off everything: a new epoch of the rank group begins with empty blocks."""
        for entry in list(self._entries.values()):
            self._drop(entry)

    def check_books(self, held: Iterable[int]) -> None:
        """Check the pool's books, given the number of blocks of each running sequence, and our own.

        Raises AssertionError.
        """
        self.pool.check_books((*held, len(self._entries)))
        if len(self._by_block) != len(self._entries) or any(self.pool.references(b) != 1 for b in self._idle):
            raise AssertionError("the list of cached blocks is inconsistent")

    def _lookup(self, sequence: Sequence, index: int, parent: int) -> Entry | None:
        entry = self._entries.get(self._key(sequence, index))
        if entry is None or entry.parent != parent or entry.tenant != sequence.tenant:
            return None
        return entry if entry.ids == self._ids(sequence, index).tobytes() else None

    def _insert(self, sequence: Sequence, index: int, parent: int) -> Entry:
        key = self._key(sequence, index)
        # What is listed under this key hangs on a block that is gone, or collides: nobody could find it
        # again.
        if (stale := self._entries.get(key)) is not None:
            self._drop(stale)
        self._last_serial += 1
        block = sequence.block_table[index]
        ids = self._ids(sequence, index).tobytes()
        entry = Entry(self._last_serial, parent, sequence.tenant, key, ids, block)
        self.pool.retain(block)
        self._entries[key] = self._by_block[block] = entry
        return entry

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key], self._by_block[entry.block]
        self._idle.pop(entry.block, None)
        self.pool.release(entry.block)

    def _is_listed(self, sequence: Sequence) -> bool:
        """Whether the last entry that `sequence` looked up or published is still there to hang others on."""
        if sequence.num_published == 0:
            return True
        entry = self._entries.get(sequence.block_keys[sequence.num_published - 1])
        return entry is not None and entry.serial == sequence.published_serial

    def _ids(self, sequence: Sequence, index: int) -> "array[int]":
        size = self.pool.block_size
        return sequence.token_ids[index * size : (index + 1) * size]

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """Return the key of block `index`. Keys are kept: the ids of a sequence only grow."""
        keys = sequence.block_keys
        while len(keys) <= index:
            parent = keys[-1] if keys else _digest(b"tenant", sequence.tenant.encode())
            keys.append(_digest(b"block", parent, self._ids(sequence, len(keys)).tobytes()))
        return keys[index]


def _digest(tag: bytes, *fields: bytes) -> bytes:
    """BLAKE2b over fields that are each preceded by their length, personalised by `tag`."""
    digest = blake2b(digest_size=32, person=tag)
    for part in fields:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()
