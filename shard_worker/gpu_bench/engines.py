"""An engine alone in this process, without a checkpoint's folder, a gateway or a peer."""

from dataclasses import dataclass
from typing import Literal

import torch

from common.manifest import UNQUANTIZED, Architecture, Quantization
from common.step_protocol import PROTOCOL_VERSION
from shard_worker.checkpoint.layout import expected_tensors
from shard_worker.checkpoint.weight_shapes import Dtype
from shard_worker.engine import DTYPES, Engine
from shard_worker.gpu.selection import gpu_decoder
from shard_worker.gpu_bench.stages import Mode
from shard_worker.model.attention import ATTENTION_PATHS
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.matrices import TensorSource
from shard_worker.model.weights import load_model
from shard_worker.native.selection import native_decoder
from shard_worker.parallel import RankGroup
from shard_worker.partition import partition
from shard_worker.quantization.stated import quantization_of
from tandem.shard.v1 import shard_service_pb2 as pb

Kernels = Literal["auto", "unrecorded", "off"]
BLOCK_SIZE_TOKENS = 16
MAX_STEP_TOKENS = 2048
INT4_GROUP_SIZE = 32


@dataclass(frozen=True)
class Place:
    """Where and how an engine computes. `kernels`: of the GPU; off means plain PyTorch on a CPU too."""

    device: torch.device
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    kernels: Kernels = "auto"


def quantization_for(architecture: Architecture, mode: Mode) -> Quantization:
    """Return what `tandem quantize` makes by default in this mode."""
    return UNQUANTIZED if mode == "bf16" else quantization_of(architecture, mode, INT4_GROUP_SIZE, "int8")


def build_engine(
    source: TensorSource, architecture: Architecture, quantization: Quantization, place: Place, kv_tokens: int
) -> Engine:
    """Return an engine of one rank with the weights of `source`. Raises CheckpointError, SettingsError."""
    dtype, part, group = DTYPES[place.dtype], partition(architecture, 0, 1), RankGroup(0, 1, epoch=1)
    fast = ATTENTION_PATHS["fast"]
    model = load_model(source, architecture, part, group, fast, dtype, place.device, quantization)
    num_blocks = -(-kv_tokens // BLOCK_SIZE_TOKENS)
    kv_shape = (num_blocks, BLOCK_SIZE_TOKENS, part.kv_heads.size, architecture.head_dim)
    cache = KVCache(architecture.layers, *kv_shape, dtype, place.device)
    info = pb.GetInfoResponse(
        protocol_version=PROTOCOL_VERSION,
        epoch=group.epoch,
        world_size=1,
        num_blocks=num_blocks,
        block_size_tokens=BLOCK_SIZE_TOKENS,
        vocabulary_size=part.vocabulary.size,
        context_length=architecture.context_length,
        max_step_tokens=MAX_STEP_TOKENS,
        device=str(place.device),
        dtype=place.dtype,
    )
    on_gpu = gpu_decoder(place.kernels, "fast", model, cache, part)
    if on_gpu is not None:
        return Engine(model, cache, part, group, info, on_gpu.decoder, on_gpu.sampler)
    native = native_decoder("off" if place.kernels == "off" else "auto", "fast", model, cache, part)
    return Engine(model, cache, part, group, info, native)


def bytes_per_step(architecture: Architecture, quantization: Quantization, dtype: Dtype) -> int:
    """Return the bytes of weights that a decode step reads: all but rows of an embedding that is no head."""
    tensors = expected_tensors(architecture, dtype, quantization)
    tied = architecture.tied_embeddings
    return sum(spec.num_bytes for name, spec in tensors.items() if tied or not name.startswith("embedding."))
