"""Do all ranks share this host's memory? They find out together, so that none is left alone with its answer."""

import logging
from typing import Literal, Protocol

from common.errors import SettingsError
from shard_worker.collectives.segment import Segment, new_name, remove_stale, unlink
from shard_worker.collectives.shared_memory import SharedMemoryGroup, load_library, segment_bytes

Collectives = Literal["auto", "shared-memory", "torch"]
YES = "yes"
SEGMENT_KEY = "collectives/segment"

log = logging.getLogger(__name__)


class Store(Protocol):
    """What torch.distributed's stores can do: strings by key, seen by all ranks."""

    def set(self, key: str, value: str) -> None:
        """Write once."""

    def get(self, key: str) -> bytes:
        """Return what was written, once it is; raises RuntimeError where that takes too long."""


def agree_on_shared_memory(
    store: Store, rank: int, world_size: int, wanted: Collectives, on_cpu: bool, timeout_s: float
) -> SharedMemoryGroup | None:
    """Return this rank's place in a shared-memory group, or None on every rank when a single one cannot take part.

    The proof that ranks share a host is that they can all map one segment under a name of 128 random bits; host names
    and boot ids say less (containers may or may not share /dev/shm). Raises SettingsError when `wanted` is
    shared-memory and it cannot be had, RuntimeError when a rank does not answer the store in time.
    """
    meeting = _Meeting(store, rank, world_size)
    library = None
    try:
        if wanted == "torch":
            raise SettingsError("set to torch")
        if not on_cpu:
            raise SettingsError("not on a CPU")
        library = load_library()
        reason = YES
    except SettingsError as error:
        reason = str(error)
    # First all ranks get ready, which may take a compiler's time; then the segment has its name for a moment only.
    refusal = meeting.ask_all("able", reason)
    group = None
    if refusal is None and library is not None:
        size_bytes = segment_bytes(library, world_size)
        segment, refusal = _share_segment(meeting, size_bytes)
        if segment is not None:
            group = SharedMemoryGroup(library, segment, rank, world_size, timeout_s)
    if group is None and wanted == "shared-memory":
        raise SettingsError(f"collectives cannot go through shared memory: {refusal}")
    log.info("collectives: %s", "shared memory" if group else f"torch.distributed ({refusal})")
    return group


class _Meeting:
    """Questions that every rank answers for all to see."""

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.store = store
        self.rank = rank
        self.world_size = world_size

    def ask_all(self, question: str, answer: str) -> str | None:
        """Return None when all ranks say yes, else who does not and why: the same on all ranks."""
        self.store.set(f"collectives/{question}/{self.rank}", answer)
        for rank in range(self.world_size):
            said = self.store.get(f"collectives/{question}/{rank}").decode()
            if said != YES:
                return f"rank {rank}: {said}"
        return None


def _share_segment(meeting: _Meeting, size_bytes: int) -> tuple[Segment | None, str | None]:
    """Return the segment that all ranks have mapped, or None and why there is none."""
    segment, name, answer = None, "", YES
    try:
        try:
            if meeting.rank == 0:
                remove_stale()
                name = new_name()
                segment = Segment.create(name, size_bytes)
            else:
                name = meeting.store.get(SEGMENT_KEY).decode()
                segment = Segment.attach(name, size_bytes, meeting.rank)
        except OSError as error:
            answer = f"no shared segment: {error.strerror or error}"
        if meeting.rank == 0:
            meeting.store.set(SEGMENT_KEY, name)  # also where there is none: the others wait for it
        refusal = meeting.ask_all("mapped", answer)
    except BaseException:
        if segment is not None:
            segment.close()
        raise
    finally:
        if meeting.rank == 0 and name:
            unlink(name)
    if refusal is not None and segment is not None:
        segment.close()
        segment = None
    return segment, refusal
