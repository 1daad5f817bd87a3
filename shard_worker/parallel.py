"""The group of ranks: how they meet, and the one collective the model needs."""

import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from common.errors import SettingsError, Unavailable
from shard_worker.collectives.agreement import Collectives, agree_on_shared_memory
from shard_worker.collectives.shared_memory import SharedMemoryGroup
from shard_worker.collectives.symmetric_memory import SymmetricMemoryGroup, agree_on_symmetric_memory


class RankGroup:
    """One formation of a tensor-parallel group. `epoch` names it, equal on all ranks."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        epoch: int,
        shared_memory: SharedMemoryGroup | None = None,
        symmetric_memory: SymmetricMemoryGroup | None = None,
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self.shared_memory = shared_memory
        self.symmetric_memory = symmetric_memory
        self._collective_ns = 0

    def all_reduce(self, part: Tensor) -> Tensor:
        """Return the sum of all ranks' parts, in part's type; summed in float32.

        Raises Unavailable when a rank was lost; the group is then of no more use.
        """
        if self.world_size == 1:
            return part
        if self.shared_memory is not None:
            ours = part.float().contiguous()
            total = torch.empty_like(ours)
            self.shared_memory.all_reduce(ours.data_ptr(), total.data_ptr(), total.numel())
            return total.to(part.dtype)
        if self.symmetric_memory is not None and self.symmetric_memory.takes(part.float()):
            return self.symmetric_memory.all_reduce(part.float()).to(part.dtype)
        began = time.perf_counter_ns()
        total = part.float()
        try:
            dist.all_reduce(total)
        except RuntimeError as error:
            raise Unavailable(f"another rank of the group was lost: {str(error).partition('. ')[0]}") from error
        self._collective_ns += time.perf_counter_ns() - began
        return total.to(part.dtype)

    def take_collective_ns(self) -> int:
        """Return the time spent in collectives since the last call, waiting for other ranks included."""
        spent, self._collective_ns = self._collective_ns, 0
        return spent if self.shared_memory is None else self.shared_memory.take_spent_ns()

    def close(self) -> None:
        """Leave the group."""
        if self.shared_memory is not None:
            self.shared_memory.close()
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()


def form_group(
    rank: int,
    world_size: int,
    rendezvous: str,
    device: torch.device,
    timeout_s: float,
    collectives: Collectives = "auto",
    meet_timeout_s: float | None = None,
) -> RankGroup:
    """Meet the other ranks and agree on an epoch; returns when a first collective has run on all of them.

    A collective may take `timeout_s`; meeting through tcp may take `meet_timeout_s`, where that is given.
    Ranks on the CPUs of one host add up through shared memory. Raises SettingsError for a rendezvous that cannot be
    used, where the others do not come in time, or where `collectives` asks for what cannot be had.
    """
    epoch = time.time_ns()
    if world_size == 1:
        return RankGroup(rank, world_size, epoch)
    meet_timeout_s = meet_timeout_s or timeout_s
    timeout = timedelta(seconds=timeout_s)
    try:
        store = _store(rank, world_size, rendezvous, timedelta(seconds=meet_timeout_s))
        store.set_timeout(timeout)
        dist.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )
        # A first collective connects every pair now; lazily made connections do not always honour the timeout.
        agreed = torch.tensor([epoch], dtype=torch.int64, device=device)
        dist.broadcast(agreed, src=0)
        dist.all_reduce(torch.zeros(1, device=device))
        shared_memory = agree_on_shared_memory(store, rank, world_size, collectives, device.type == "cpu", timeout_s)
        on_gpus = device.type == "cuda" and collectives == "auto"
        symmetric_memory = agree_on_symmetric_memory(device) if on_gpus else None
        if shared_memory is not None:
            # It is all that is used from here on; gloo's loop would wake a hundred times a second beside the model.
            dist.barrier()
            dist.destroy_process_group()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"{world_size} ranks did not meet at {rendezvous} (they have {meet_timeout_s:g} s): {reason}"
        ) from error
    return RankGroup(rank, world_size, int(agreed.item()), shared_memory, symmetric_memory)


def _store(rank: int, world_size: int, rendezvous: str, timeout: timedelta) -> Store:
    url = urlsplit(rendezvous)
    if url.scheme == "file" and url.path:
        if not Path(url.path).parent.is_dir():  # FileStore would try for minutes
            raise SettingsError(f"rendezvous {rendezvous}: there is no folder {Path(url.path).parent}")
        store = FileStore(url.path, world_size)
        store.set_timeout(timeout)
        return store
    if url.scheme == "tcp" and url.hostname and url.port:
        return TCPStore(url.hostname, url.port, world_size, is_master=rank == 0, timeout=timeout)
    raise SettingsError(f"rendezvous {rendezvous!r} is neither tcp://host:port nor file:///path")
