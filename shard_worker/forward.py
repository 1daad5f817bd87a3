"""Rows in, hidden states and logits out: by native code or a GPU's kernels where a step is small, else by PyTorch."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from shard_worker.batch import build_inputs
from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama
from shard_worker.native.decoder import NativeDecoder
from shard_worker.plan import Rows


@dataclass(frozen=True)
class Forward:
    """A model on its cache, which every call writes."""

    model: Llama
    cache: KVCache
    native: NativeDecoder | GraphDecoder | None
    dtype: torch.dtype
    device: torch.device
    num_threads: int = field(default_factory=torch.get_num_threads)  # PyTorch's, where it computes

    @property
    def slice_size(self) -> int:
        """Number of tokens in this rank's slice of the vocabulary."""
        return self.model.head.out_features

    def hidden(self, rows: Rows) -> Tensor:
        """Run the model and return the hidden state of the reported tokens, sampled ones first, float32[P, M]."""
        native = self.native if self.native is not None and self.native.takes(len(rows.ids_N)) else None
        # PyTorch's idle threads spin for milliseconds, on the very cores that a native step needs.
        torch.set_num_threads(self.num_threads if native is None else 1)
        device = self.device if native is None else native.input_device
        inputs = build_inputs(
            rows, self.cache.block_size, self.dtype, device, with_buckets=native is None, windows=self.model.windows
        )
        hidden_PM: Tensor = self.model(inputs, self.cache) if native is None else native(inputs)
        return hidden_PM

    def logits(self, hidden_PM: Tensor) -> Tensor:
        """Return the logits over this rank's slice of the vocabulary, float32[P, V]."""
        if self.native is not None and self.native.takes(len(hidden_PM)):
            return self.native.logits(hidden_PM)
        return self.model.logits(hidden_PM)
