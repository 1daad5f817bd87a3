"""How a checkpoint becomes one rank's model: built without memory, then filled slice by slice."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from common.manifest import UNQUANTIZED, Architecture, Quantization
from shard_worker.model.attention import AttentionPath
from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.model.llama import Layer, Llama, Norm
from shard_worker.model.matrices import MatrixReader, TensorSource
from shard_worker.model.rope import RopeTable
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition

LOADING_THREADS = 4
PROGRESS_INTERVAL_S = 2.0
log = logging.getLogger(__name__)


def load_model(
    source: TensorSource,
    arch: Architecture,
    part: Partition,
    group: RankGroup,
    path: AttentionPath,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = UNQUANTIZED,
) -> Llama:
    """Return the rank's model in `dtype` on `device`. Norms and a float head's rows are float32.

    Raises CheckpointError when a tensor is missing, left over or of the wrong shape.
    """
    rope = RopeTable(arch.rope, arch.head_dim, arch.context_length, device)
    with torch.device("meta"):
        model = Llama(arch, part, group, path, rope, dtype)
    matrices = MatrixReader(source, quantization, dtype, device)
    model.embedding = _fitting(
        model.embedding, matrices.rows([("embedding.weight", part.vocabulary)], arch.hidden_size)
    )
    _fill_layers(model, matrices, arch, part, device)
    _fill_norm(model.norm, source.read("norm.weight"), device)
    if not arch.tied_embeddings:
        head = matrices.rows([("head.weight", part.vocabulary)], arch.hidden_size, torch.float32)
    elif isinstance(model.embedding, FloatLinear):
        # The float32 head is what the embedding becomes when a step's logits must not be rounded.
        head = FloatLinear(model.embedding.weight.float())
    else:
        head = model.embedding
    model.head = _fitting(model.head, head)
    source.finish()
    assert not any(parameter.is_meta for parameter in model.parameters())
    return model.eval()


def _fill_layers(
    model: Llama, matrices: MatrixReader, arch: Architecture, part: Partition, device: torch.device
) -> None:
    """Fill all layers, a few at a time: page faults, conversion and copies to the device overlap."""

    def fill(index: int) -> None:
        layer = model.layers[index]
        assert isinstance(layer, Layer)
        fill_layer(layer, matrices, index, arch, part, device)

    told_s = time.monotonic()
    with ThreadPoolExecutor(LOADING_THREADS, thread_name_prefix="load") as threads:
        for count, _ in enumerate(threads.map(fill, range(arch.layers)), 1):
            if time.monotonic() - told_s > PROGRESS_INTERVAL_S:
                told_s = time.monotonic()
                log.info("loaded %d of %d layers", count, arch.layers)


def fill_layer(
    layer: Layer, matrices: MatrixReader, index: int, arch: Architecture, part: Partition, device: torch.device
) -> None:
    """Give layer `index` its weights. Raises CheckpointError as `load_model` does."""
    name = f"layers.{index}"
    query, kv, wide = part.query_heads.scaled(arch.head_dim), part.kv_heads.scaled(arch.head_dim), part.feed_forward
    _fill_norm(layer.attention_norm, matrices.source.read(f"{name}.attention_norm.weight"), device)
    _fill_norm(layer.feed_forward_norm, matrices.source.read(f"{name}.feed_forward_norm.weight"), device)
    attention, feed_forward = layer.attention, layer.feed_forward
    qkv = [(f"{name}.attention.{role}.weight", span) for role, span in (("query", query), ("key", kv), ("value", kv))]
    attention.qkv = _fitting(attention.qkv, matrices.rows(qkv, arch.hidden_size))
    attention.output = _fitting(attention.output, matrices.columns(f"{name}.attention.output.weight", query))
    gate_up = [(f"{name}.feed_forward.{role}.weight", wide) for role in ("gate", "up")]
    feed_forward.gate_up = _fitting(feed_forward.gate_up, matrices.rows(gate_up, arch.hidden_size))
    feed_forward.down = _fitting(feed_forward.down, matrices.columns(f"{name}.feed_forward.down.weight", wide))


def _fitting(place: Linear, linear: Linear) -> Linear:
    shapes = [(module.out_features, module.in_features) for module in (place, linear)]
    assert shapes[0] == shapes[1], shapes
    return linear


def _fill_norm(norm: Norm, weight: Tensor, device: torch.device) -> None:
    assert norm.weight.shape == weight.shape, (norm.weight.shape, weight.shape)
    norm.weight = torch.nn.Parameter(weight.to(device), requires_grad=False)
