"""Work that is recorded once and then launched as a whole: a CUDA (or HIP) graph."""

from collections.abc import Callable

import torch

_WARM_UPS = 2


class Recorder:
    """Records work on one device; all recordings share one memory pool, so only one runs at a time.

    Without `enabled`, or off the GPU, a recording is the work itself.
    """

    def __init__(self, device: torch.device, enabled: bool = True) -> None:
        self.enabled = enabled and device.type == "cuda"
        self._pool = torch.cuda.graph_pool_handle() if self.enabled else None

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does `work` again, on the same tensors. Runs it a few times first: kernels are compiled then.

        Work must not wait for the device, nor depend on values that live on the host.
        """
        if not self.enabled:
            return work
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may do what they like meanwhile: only this one is recorded.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph.replay
