"""Weights in huge pages. A decode step reads every weight once, and with pages of 4 KiB it waits for the processor to
find them: one thread read 19 GB/s, and 29 GB/s with pages of 2 MiB."""

import ctypes
import mmap

import torch
from torch import Tensor, nn

# Norms and scales of one row are not worth moving.
_MIN_BYTES = 64 << 10
_ALIGNMENT_BYTES = 64


def move_to_huge_pages(model: nn.Module) -> None:
    """Move the model's large tensors into memory that the kernel is asked to map with huge pages.

    Values and shapes stay; tensors that shared memory still do. Without such pages nothing changes but the address.
    """
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if _is_worth_moving(tensor)]
    storages = {tensor.data_ptr(): tensor for tensor in tensors}
    offsets, total_bytes = {}, 0
    for address, tensor in storages.items():
        offsets[address] = total_bytes
        total_bytes += -(-tensor.nbytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
    if not total_bytes:
        return
    memory = mmap.mmap(-1, total_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory has other rules
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    moved: dict[int, Tensor] = {}
    for tensor in tensors:
        address = tensor.data_ptr()
        if address not in moved:
            place = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=offsets[address])
            moved[address] = place.view(tensor.shape).copy_(tensor.detach())
        tensor.data = moved[address]
    _give_back_freed_memory()


def _give_back_freed_memory() -> None:
    """Weights that were replaced while the model was loaded lie between others, where glibc keeps their memory."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _is_worth_moving(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.nbytes >= _MIN_BYTES
