"""All-reduce through a shared segment: the library's functions as Python objects."""

import ctypes
import sys
from pathlib import Path

from common.errors import SettingsError, Unavailable
from shard_worker.collectives.segment import Segment
from shard_worker.native.compiler import Unit, build_library

NAME = "tandem-collectives"
SOURCE = Path(__file__).parent / "csrc" / "all_reduce.cpp"

SLOT_FLOATS = 64 * 1024
MICROSECOND_NS = 1000
# Ranks often share a core, with others or with each other, and every spin then delays the very rank that is waited for:
# on two busy cores, 61 all-reduces between small products took 12 ms with spins of 1 us at most, 24 ms with 200 us, and
# 84 ms with 1 ms. Where a core is free, yielding answers as fast.
SPIN_NS = 2 * MICROSECOND_NS
YIELD_NS = 500 * MICROSECOND_NS

# `enum Failure` of all_reduce.cpp.
FAILURES = {
    1: "rank {rank} has ended",
    2: "rank {rank} did not answer within {timeout_s:g} s",
    3: "the others gave up on rank {rank}",
    4: "rank {rank} adds up a part of another size",
}


def build() -> Path:
    """Return the library, built where it is missing. Raises SettingsError when it cannot be."""
    if sys.platform != "linux":
        raise SettingsError("shared-memory collectives need Linux")
    return build_library(NAME, [Unit(SOURCE)])


def load_library() -> ctypes.CDLL:
    """Return the library, built first where need be. Raises SettingsError saying why it cannot be had."""
    path = build()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise SettingsError(f"{path} cannot be loaded: {error}") from error
    pointer, int64 = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("segment_bytes", int64, [ctypes.c_int, int64]),
        ("open", pointer, [pointer, ctypes.c_int, ctypes.c_int, ctypes.c_int, int64, int64, int64, int64]),
        ("all_reduce", ctypes.c_int, [pointer, pointer, pointer, int64]),
        ("rank_at_fault", ctypes.c_int, [pointer]),
        ("take_spent_ns", int64, [pointer]),
        ("close", None, [pointer]),
    ):
        function = getattr(library, f"tandem_collectives_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def segment_bytes(library: ctypes.CDLL, world_size: int, slot_floats: int = SLOT_FLOATS) -> int:
    """Return how large a segment the group needs."""
    return int(library.tandem_collectives_segment_bytes(world_size, slot_floats))


class SharedMemoryGroup:
    """One rank's place in a group on one host. All calls come from one thread at a time."""

    def __init__(
        self,
        library: ctypes.CDLL,
        segment: Segment,
        rank: int,
        world_size: int,
        timeout_s: float,
        slot_floats: int = SLOT_FLOATS,
    ) -> None:
        self._library = library
        self._segment = segment
        self._timeout_s = timeout_s
        # The view keeps the mapping open, and has its address.
        self._view = ctypes.c_char.from_buffer(segment.memory)
        self._group: int = library.tandem_collectives_open(
            ctypes.addressof(self._view),
            segment.file,
            rank,
            world_size,
            slot_floats,
            int(timeout_s * 1e9),
            SPIN_NS,
            YIELD_NS,
        )

    @property
    def entry_point(self) -> tuple[int, int]:
        """(function, context) for native code: addresses, valid until `close`.

        int function(void* context, const float* part, float* total, int64_t count)

        does what `all_reduce` does; what it returns is for `check`.
        """
        function = ctypes.cast(self._library.tandem_collectives_all_reduce, ctypes.c_void_p).value
        assert function is not None
        return function, self._group

    def all_reduce(self, part: int, total: int, count: int) -> None:
        """Write the sum of all ranks' parts to `total`, added up in rank order: the same bits on every rank.

        part, total: addresses of float32[count], which may be the same. Raises Unavailable when a rank was lost; the
        group is then of no more use, to any rank.
        """
        self.check(self._library.tandem_collectives_all_reduce(self._group, part, total, count))

    def check(self, result: int) -> None:
        """Raise Unavailable, saying what went wrong, where an all-reduce's result is not 0."""
        if result:
            rank = self._library.tandem_collectives_rank_at_fault(self._group)
            reason = FAILURES[result].format(rank=rank, timeout_s=self._timeout_s)
            raise Unavailable(f"another rank of the group was lost: {reason}")

    def take_spent_ns(self) -> int:
        """Return the time spent in all-reduces since the last call, native callers' and waiting included."""
        return int(self._library.tandem_collectives_take_spent_ns(self._group))

    def close(self) -> None:
        """Leave the group: the others' next all-reduce fails."""
        self._library.tandem_collectives_close(self._group)
        self._group = 0
        del self._view
        self._segment.close()
