"""How a checkpoint becomes one rank's model: built without memory, then filled slice by slice."""

from typing import Protocol

import torch
from torch import Tensor, nn

from common.manifest import Architecture
from shard_worker.model.attention import AttentionPath
from shard_worker.model.llama import Layer, Llama
from shard_worker.model.rope import RopeTable
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition


class TensorSource(Protocol):
    """Where full tensors can be read in slices; `shard_worker.checkpoint.reader.CheckpointReader` is one."""

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor:
        """Return a tensor, or its range [start, stop) along `dim`."""
        ...

    def finish(self) -> None:
        """Raise CheckpointError when a tensor was never read."""
        ...


def load_model(
    source: TensorSource,
    arch: Architecture,
    part: Partition,
    group: RankGroup,
    path: AttentionPath,
    dtype: torch.dtype,
    device: torch.device,
) -> Llama:
    """Return the rank's model in `dtype` on `device`. Norms and the head's rows are float32.

    Raises CheckpointError when a tensor is missing, left over or of the wrong shape.
    """
    rope = RopeTable(arch.rope, arch.head_dim, arch.context_length, device)
    with torch.device("meta"):
        model = Llama(arch, part, group, path, rope)
    fill = _Filler(source, dtype, device)
    fill(model.embedding, fill.rows("embedding.weight", part.vocabulary.start, part.vocabulary.stop))
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, Layer)
        _fill_layer(fill, layer, f"layers.{index}", arch, part)
    fill(model.norm, source.read("norm.weight"), torch.float32)
    if arch.tied_embeddings:
        # The float32 head is what the embedding becomes when a step's logits must not be rounded.
        fill(model.head, model.embedding.weight.data, torch.float32)
    else:
        head = fill.rows("head.weight", part.vocabulary.start, part.vocabulary.stop)
        fill(model.head, head, torch.float32)
    source.finish()
    assert not any(parameter.is_meta for parameter in model.parameters())
    return model.eval()


def _fill_layer(fill: "_Filler", layer: Layer, name: str, arch: Architecture, part: Partition) -> None:
    query, kv = part.query_heads.scaled(arch.head_dim), part.kv_heads.scaled(arch.head_dim)
    wide = part.feed_forward
    fill(layer.attention_norm, fill.source.read(f"{name}.attention_norm.weight"), torch.float32)
    qkv = [
        fill.rows(f"{name}.attention.query.weight", query.start, query.stop),
        fill.rows(f"{name}.attention.key.weight", kv.start, kv.stop),
        fill.rows(f"{name}.attention.value.weight", kv.start, kv.stop),
    ]
    fill(layer.attention.qkv, torch.cat(qkv))
    fill(layer.attention.output, fill.columns(f"{name}.attention.output.weight", query.start, query.stop))
    fill(layer.feed_forward_norm, fill.source.read(f"{name}.feed_forward_norm.weight"), torch.float32)
    gate_up = [fill.rows(f"{name}.feed_forward.{part}.weight", wide.start, wide.stop) for part in ("gate", "up")]
    fill(layer.feed_forward.gate_up, torch.cat(gate_up))
    fill(layer.feed_forward.down, fill.columns(f"{name}.feed_forward.down.weight", wide.start, wide.stop))


class _Filler:
    """Replaces the weight of a module by a tensor that was read, checking its shape."""

    def __init__(self, source: TensorSource, dtype: torch.dtype, device: torch.device) -> None:
        self.source = source
        self._dtype = dtype
        self._device = device

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of a matrix."""
        return self.source.read(name, 0, start, stop)

    def columns(self, name: str, start: int, stop: int) -> Tensor:
        """Return columns [start, stop) of a matrix."""
        return self.source.read(name, 1, start, stop)

    def __call__(self, module: nn.Module, weight: Tensor, dtype: torch.dtype | None = None) -> None:
        """Give `module` this weight, in `dtype` or the model's own."""
        assert isinstance(module.weight, Tensor) and module.weight.shape == weight.shape, (module, weight.shape)
        placed = weight.to(device=self._device, dtype=dtype or self._dtype).contiguous()
        module.weight = nn.Parameter(placed, requires_grad=False)
