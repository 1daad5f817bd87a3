"""A step's inputs on their way to the device: written on the host, sent as one copy, found where graphs expect them."""

import torch
from torch import Tensor


class Staging:
    """A tensor on the device that keeps its address, and pinned memory beside it that it is filled from.

    Copies do not make the host wait, except for a copy that is still under way when the next one is prepared.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, fill: int = 0) -> None:
        on_gpu = device.type == "cuda"
        self.host = torch.full(shape, fill, dtype=dtype, pin_memory=on_gpu)
        self.device = torch.full(shape, fill, dtype=dtype, device=device)
        self._sent = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]

    def writable(self) -> Tensor:
        """Return the host's side, once nothing reads it any more."""
        if self._sent is not None:
            self._sent.synchronize()
        return self.host

    def send(self, count: int | None = None) -> None:
        """Copy the host's side, or its first `count` elements, to the device."""
        self.device.view(-1)[:count].copy_(self.host.view(-1)[:count], non_blocking=True)
        if self._sent is not None:
            self._sent.record()
