"""A checkpoint's hidden states and logits over whole texts. One text at a time, nothing kept between."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shard_worker.batch import build_inputs
from shard_worker.checkpoint.reader import CheckpointReader
from shard_worker.model.attention import fast_attention
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.linear import Linear
from shard_worker.model.weights import load_model
from shard_worker.parallel import form_group
from shard_worker.partition import partition
from shard_worker.plan import Rows

# Logits of so many positions exist at once.
CHUNK_POSITIONS = 32


class TextModel:
    """A whole model on one device. Raises CheckpointError when its checkpoint cannot be used."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device, max_length: int) -> None:
        with CheckpointReader(folder) as reader:
            self.manifest, self.hash = reader.manifest, reader.hash
            arch, quantization = self.manifest.architecture, self.manifest.quantization
            part = partition(arch, 0, 1, quantization.group_size or 1)
            group = form_group(0, 1, "", device, timeout_s=1.0)
            self._model = load_model(reader, arch, part, group, fast_attention, dtype, device, quantization)
        self._cache = KVCache(arch.layers, 1, max_length, arch.kv_heads, arch.head_dim, dtype, device)
        self._dtype, self._device = dtype, device

    @property
    def head(self) -> Linear:
        """What makes logits of hidden states."""
        return self._model.head

    def logits(self, ids_n: Tensor) -> Iterator[Tensor]:
        """Yield float32[P, V], the raw logits after each id of a text, int64[n], a chunk of positions at a time."""
        for hidden_PM in torch.split(self.hidden(ids_n), CHUNK_POSITIONS):
            with torch.inference_mode():
                yield self._model.logits(hidden_PM)

    @torch.inference_mode()
    def hidden(self, ids_n: Tensor) -> Tensor:
        """Return float32[n, M], what the head takes after each id of a text, int64[n]."""
        one, length = np.ones(1, dtype=np.int64), len(ids_n)
        rows = Rows(
            sequences_R=0 * one,
            base_lengths_R=0 * one,
            lengths_R=length * one,
            sampled_R=length * one,
            scored_R=0 * one,
            ids_N=ids_n.numpy().astype(np.int32),
            blocks_R=one,
            block_tables=np.zeros(1, dtype=np.int32),
            scored_ids_S=np.zeros(0, dtype=np.int32),
            run_ahead_R=0 * one,
            continued_R=0 * one,
        )
        block_size, windows = self._cache.block_size, self._model.windows
        inputs = build_inputs(rows, block_size, self._dtype, self._device, windows=windows)
        hidden_PM: Tensor = self._model(inputs, self._cache)
        return hidden_PM
