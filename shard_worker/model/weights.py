"""How a checkpoint becomes one rank's model: built without memory, then filled slice by slice."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from common.errors import CheckpointError
from common.manifest import UNQUANTIZED, Architecture, Quantization
from shard_worker.checkpoint.layout import HEAD_IDS
from shard_worker.checkpoint.weight_shapes import feed_forward_prefixes
from shard_worker.model.attention import AttentionPath
from shard_worker.model.feed_forward import Experts, FeedForward
from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.model.llama import Layer, Llama, Norm
from shard_worker.model.matrices import MatrixReader, TensorSource
from shard_worker.model.rope import RopeTable
from shard_worker.model.trimmed_head import TrimmedHead
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition, Span

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
    rope, local_rope = rope_tables(arch, arch.context_length, device)
    with torch.device("meta"):
        model = Llama(arch, part, group, path, rope, dtype, local_rope)
    matrices = MatrixReader(source, quantization, dtype, device)
    model.embedding = _fitting(
        model.embedding, matrices.rows([("embedding.weight", part.vocabulary)], arch.hidden_size)
    )
    _fill_layers(model, matrices, arch, part, device)
    _fill_norm(model.norm, source.read("norm.weight"), device)
    head: Linear
    if arch.head_size is not None:
        head = _trimmed_head(matrices, arch, arch.head_size, part, device)
    elif not arch.tied_embeddings:
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


def _trimmed_head(
    matrices: MatrixReader, arch: Architecture, size: int, part: Partition, device: torch.device
) -> TrimmedHead:
    if part.world_size > 1:
        raise CheckpointError("a trimmed head is not cut into ranks")
    kept = matrices.rows([("head.weight", Span(0, size))], arch.hidden_size, torch.float32)
    ids_N = matrices.source.read(HEAD_IDS).long()
    if ids_N[0] < 0 or ids_N[-1] >= arch.vocabulary_size or (ids_N.diff() <= 0).any():
        raise CheckpointError(f"{HEAD_IDS} are not rising ids of {arch.vocabulary_size} tokens")
    return TrimmedHead(kept, ids_N.to(device), arch.vocabulary_size)


def rope_tables(arch: Architecture, positions: int, device: torch.device) -> tuple[RopeTable, RopeTable | None]:
    """Return the angles of so many positions; the second table is of layers with a window, where theirs are others."""
    v = arch.variations
    rotary_dim = arch.head_dim if v is None else v.rotary_dim
    local = None if v is None or v.local_rope is None else RopeTable(v.local_rope, rotary_dim, positions, device)
    return RopeTable(arch.rope, rotary_dim, positions, device), local


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
    query, kv = part.query_heads.scaled(arch.head_dim), part.kv_heads.scaled(arch.head_dim)
    attention, source = layer.attention, matrices.source
    norms = {
        "attention_norm": layer.attention_norm,
        "attention.query_norm": attention.query_norm,
        "attention.key_norm": attention.key_norm,
        "attention_output_norm": layer.attention_output_norm,
        "feed_forward_norm": layer.feed_forward_norm,
        "feed_forward_output_norm": layer.feed_forward_output_norm,
    }
    for role, norm in norms.items():
        if isinstance(norm, Norm):
            _fill_norm(norm, source.read(f"{name}.{role}.weight"), device)
    spans = (("query", query), ("key", kv), ("value", kv))
    qkv = [(f"{name}.attention.{role}.weight", span) for role, span in spans]
    attention.qkv = _fitting(attention.qkv, matrices.rows(qkv, arch.hidden_size))
    if attention.qkv_bias is not None:
        parts = [source.read(f"{name}.attention.{role}.bias", 0, span.start, span.stop) for role, span in spans]
        bias = torch.cat(parts).to(device, matrices.dtype)
        assert bias.shape == attention.qkv_bias.shape, bias.shape
        attention.qkv_bias = torch.nn.Parameter(bias, requires_grad=False)
    attention.output = _fitting(attention.output, matrices.columns(f"{name}.attention.output.weight", query))
    _fill_feed_forward(layer, matrices, name, arch, part)


def _fill_feed_forward(layer: Layer, matrices: MatrixReader, name: str, arch: Architecture, part: Partition) -> None:
    if isinstance(layer.feed_forward, Experts):
        router = layer.feed_forward.router
        rows = [(f"{name}.feed_forward.router.weight", Span(0, router.out_features))]
        layer.feed_forward.router = _fitting(router, matrices.rows(rows, arch.hidden_size))
        networks = list(layer.feed_forward.experts)
    else:
        networks = [layer.feed_forward]
    for prefix, network in zip(feed_forward_prefixes(arch), networks, strict=True):
        assert isinstance(network, FeedForward)
        gate_up = [(f"{name}.{prefix}.{role}.weight", part.feed_forward) for role in ("gate", "up")]
        network.gate_up = _fitting(network.gate_up, matrices.rows(gate_up, arch.hidden_size))
        network.down = _fitting(network.down, matrices.columns(f"{name}.{prefix}.down.weight", part.feed_forward))


def _fitting(place: Linear, linear: Linear) -> Linear:
    shapes = [(module.out_features, module.in_features) for module in (place, linear)]
    assert shapes[0] == shapes[1], shapes
    return linear


def _fill_norm(norm: Norm, weight: Tensor, device: torch.device) -> None:
    assert norm.weight.shape == weight.shape, (norm.weight.shape, weight.shape)
    norm.weight = torch.nn.Parameter(weight.to(device), requires_grad=False)
