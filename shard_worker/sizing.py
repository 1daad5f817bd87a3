"""How large is a model: its parameters, its checkpoint's bytes, and the memory of each rank? No torch in here."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from common.manifest import UNQUANTIZED, Architecture, Quantization
from shard_worker.checkpoint.weight_shapes import ELEMENT_BYTES, Dtype, matrix_format, stored_parts, weight_shapes
from shard_worker.partition import Partition, partition
from shard_worker.quantization.stated import DEFAULT_GROUP_SIZE, quantization_of

DTYPE: Dtype = "bfloat16"
FORMATS = ("bf16", "int8", "int4")
_IN_LAYER = "layers.0."


@dataclass(frozen=True)
class RankMemory:
    """What the fullest rank holds, and all ranks together. Bytes."""

    weights_bytes: int
    kv_cache_bytes: int
    all_ranks_bytes: int

    @property
    def total_bytes(self) -> int:
        """Weights and KV cache of the fullest rank."""
        return self.weights_bytes + self.kv_cache_bytes


def stated_quantization(architecture: Architecture, form: str) -> Quantization:
    """Return what `tandem quantize` makes by default for `form`, one of FORMATS. Raises CheckpointError as it does."""
    if form == "bf16":
        return UNQUANTIZED
    return quantization_of(architecture, form, DEFAULT_GROUP_SIZE, "int8")


def parameters(architecture: Architecture) -> int:
    """Return the number of weights; of tied embeddings once."""
    return sum(
        math.prod(shape) * (architecture.layers if name.startswith(_IN_LAYER) else 1)
        for name, shape in weight_shapes(architecture.model_copy(update={"layers": 1})).items()
    )


def stored_bytes(architecture: Architecture, quantization: Quantization) -> int:
    """Return the bytes of a checkpoint's tensors, floats in bfloat16."""
    return _weight_bytes(architecture, quantization, "float32")


def rank_memory(architecture: Architecture, quantization: Quantization, tp: int, context_tokens: int) -> RankMemory:
    """Return what `tp` ranks hold in bfloat16: their parts of the weights, and the KV cache of one full context.

    Counted are the tensors that `shard_worker.model.weights.load_model` makes; what the process itself takes, and a
    step's intermediate values, come on top. Raises CheckpointError where so many ranks cannot share the model.
    """
    # Most ranks hold as much as another one does.
    ranks = Counter(_local(partition(architecture, rank, tp, quantization.group_size or 1)) for rank in range(tp))
    held = {local: local.held(architecture, quantization, context_tokens) for local in ranks}
    weights_bytes, kv_cache_bytes = max(held.values(), key=sum)
    return RankMemory(weights_bytes, kv_cache_bytes, sum(sum(held[local]) * count for local, count in ranks.items()))


class _Local(NamedTuple):
    """How much of a model a rank holds: what is left is itself a model, with fewer heads, columns and rows."""

    query_heads: int
    kv_heads: int
    intermediate_size: int
    vocabulary_size: int

    def held(self, architecture: Architecture, quantization: Quantization, context_tokens: int) -> tuple[int, int]:
        """Return the bytes of the weights and of the KV cache."""
        local = architecture.model_copy(update=self._asdict())
        size = _weight_bytes(local, quantization, DTYPE)
        if quantization.embedding == "none":
            # A head of floats is float32, so that logits are not rounded: beside a tied embedding, or as it is.
            head = local.vocabulary_size * local.hidden_size
            size += head * (ELEMENT_BYTES["float32"] - (0 if local.tied_embeddings else ELEMENT_BYTES[DTYPE]))
        position = architecture.layers * 2 * self.kv_heads * architecture.head_dim * ELEMENT_BYTES[DTYPE]
        return size, position * context_tokens


def _local(part: Partition) -> _Local:
    return _Local(part.query_heads.size, part.kv_heads.size, part.feed_forward.size, part.vocabulary.size)


def _weight_bytes(architecture: Architecture, quantization: Quantization, bias_dtype: Dtype) -> int:
    one_layer = architecture.model_copy(update={"layers": 1})
    total = 0
    for name, shape in weight_shapes(one_layer).items():
        if len(shape) == 1:
            size = shape[0] * ELEMENT_BYTES[bias_dtype if name.endswith(".bias") else "float32"]
        else:
            parts = stored_parts(shape, DTYPE, matrix_format(name, quantization)).values()
            size = sum(math.prod(part) * ELEMENT_BYTES[kind] for part, kind in parts)
        total += size * (architecture.layers if name.startswith(_IN_LAYER) else 1)
    return total
