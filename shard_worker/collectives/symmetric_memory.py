"""All-reduce of small messages between the GPUs of one node: each reads all others' parts at once.

One-shot all-reduce through memory that every GPU has mapped (torch.distributed._symmetric_memory): one kernel and two
barriers, where NCCL's ring takes a round trip a rank. It can be recorded in a graph. Past a few hundred KiB each link
carries too much, and NCCL is better.
"""

import logging
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import SettingsError

# 16 rows of a 4,096 wide model in float32.
MAX_BYTES = 256 << 10
# The kernels read 16 bytes at a time.
ALIGNMENT_BYTES = 16

log = logging.getLogger(__name__)


class SymmetricMemoryGroup:
    """This rank's buffer and its peers'. All ranks must call `all_reduce` with the same shapes in the same order."""

    def __init__(self, device: torch.device) -> None:
        """Map the buffers of all ranks of the default group; every rank must do so.

        Raises SettingsError where this rank's device or PyTorch cannot.
        """
        if device.type != "cuda":
            raise SettingsError("not a GPU")
        try:
            # Imported here: it is PyTorch's own affair still, and no other device has it.
            import torch.distributed._symmetric_memory as symmetric_memory

            group = dist.group.WORLD
            assert group is not None, "made after the process group"
            self._name: str = group.group_name
            self._buffer: Tensor = symmetric_memory.empty(MAX_BYTES // 4, dtype=torch.float32, device=device)
            self._handle: Any = symmetric_memory.rendezvous(self._buffer, group)
        except (ImportError, AttributeError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise SettingsError(f"no symmetric memory: {reason}") from error

    @staticmethod
    def takes(part: Tensor) -> bool:
        """Return whether `part`, float32, is small enough, and whole words of the kernel."""
        return part.nbytes <= MAX_BYTES and part.nbytes % ALIGNMENT_BYTES == 0

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return the sum of all ranks' parts, float32, in a tensor of its own; the host does not wait."""
        assert part.dtype == torch.float32 and self.takes(part)
        mine = self._buffer[: part.numel()]
        mine.copy_(part.reshape(-1))
        total: Tensor = torch.ops.symm_mem.one_shot_all_reduce(mine, "sum", self._name)
        return total.view(part.shape)


def agree_on_symmetric_memory(device: torch.device) -> SymmetricMemoryGroup | None:
    """Return this rank's place, proven by a sum, or None on every rank when a single one cannot take part."""
    group, reason = None, ""
    try:
        group = SymmetricMemoryGroup(device)
    except SettingsError as error:
        reason = str(error)
    if not _all_agree(group is not None, device):
        log.info("all-reduce between GPUs: NCCL (%s)", reason or "another rank has no symmetric memory")
        return None
    assert group is not None
    total = group.all_reduce(torch.full((4,), float(dist.get_rank() + 1), device=device))
    ranks = dist.get_world_size()
    if not _all_agree(bool((total == ranks * (ranks + 1) / 2).all()), device):
        log.warning("all-reduce between GPUs: NCCL (symmetric memory adds up wrongly here)")
        return None
    log.info("all-reduce between GPUs: symmetric memory up to %d KiB, NCCL beyond", MAX_BYTES >> 10)
    return group


def _all_agree(yes: bool, device: torch.device) -> bool:
    votes = torch.tensor([int(yes)], device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes.item())
