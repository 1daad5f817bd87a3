"""A rank's decoder in native code: a step of few tokens, from embeddings to the reported hidden state, in one call."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import SettingsError
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.linear import FloatLinear, Int4Linear, Int8Linear, Linear
from shard_worker.model.llama import Layer, Llama, StepInputs
from shard_worker.model.trimmed_head import TrimmedHead
from shard_worker.native.compact import CompactLinear
from shard_worker.native.library import Runner
from shard_worker.native.packing import PackedInt4, PackedInt8
from shard_worker.native.sampler import NativeSampler
from shard_worker.native.structures import (
    INT4_GROUPS,
    AllReduceFunction,
    CLayer,
    CModel,
    CPasses,
    CScreen,
    CStep,
    Matrix,
    compact_matrix,
    float_matrix,
    int4_matrix,
    int8_matrix,
    packed_int4_matrix,
    packed_int8_matrix,
)
from shard_worker.parallel import RankGroup
from shard_worker.partition import Partition

# Past this PyTorch's blocked products of float weights are as fast: they read each weight once for many rows.
MAX_TOKENS = 64


@dataclass(frozen=True)
class NativeAllReduce:
    """A native function that adds up all ranks' parts (`AllReduce` in csrc/decoder.h), and the context it wants.

    `check` raises what a result other than 0 means.
    """

    function: int
    context: int
    check: Callable[[int], None]


class NativeDecoder:
    """Runs a model's steps on its own weights and cache, which keep their types.

    Hidden state and sums are float32. A bfloat16 model's activations are rounded to bfloat16 before a product where the
    processor multiplies those faster, as PyTorch does everywhere; and before a product with a packed matrix to 8 bits,
    in blocks of 32 columns.
    """

    input_device = torch.device("cpu")

    def __init__(
        self, model: Llama, cache: KVCache, part: Partition, runner: Runner, all_reduce: NativeAllReduce | None = None
    ) -> None:
        """Without `all_reduce` the group's own is called, through Python."""
        self._model, self._runner = model, runner
        self._reduction = _Reduction(model.group)  # keeps the function that it is as native code
        self.rank, self.world_size, self.first_id = part.rank, part.world_size, part.vocabulary.start
        self.all_reduce = (all_reduce or self._reduction.as_native()) if part.world_size > 1 else None
        self.trimmed = model.head if isinstance(model.head, TrimmedHead) else None
        self.sampler = NativeSampler(runner, part.vocabulary.start, self.trimmed)
        self._rounds = cache.layer(0).dtype == torch.bfloat16
        self._embedding, self.head = matrix_of(model.embedding), _head_matrix(model)
        self._screen = None if model.screen is None else (matrix_of(model.screen.down), matrix_of(model.screen.up))
        self._num_panels = 0 if model.screen is None else model.screen.num_panels
        layers = [layer for layer in model.layers if isinstance(layer, Layer)]
        self._matrices = [_layer_matrices(layer) for layer in layers]
        self._vectors = [_head_vectors(layer) for layer in layers]
        self._is_packed = all(matrix.is_packed for matrices in self._matrices for matrix in matrices)
        self._cache = cache  # keeps the memory that the structs point to
        self._first_query = torch.tensor(part.first_queries, dtype=torch.int32)
        self._structs = (CLayer * len(layers))(
            *(
                CLayer(
                    layer.attention_norm.weight.data_ptr(),
                    layer.feed_forward_norm.weight.data_ptr(),
                    *(None if vector is None else vector.data_ptr() for vector in vectors),
                    layer.attention.scoring.window or 0,
                    *(matrix.struct for matrix in matrices),
                    cache.layer(index).data_ptr(),
                )
                for index, (layer, matrices, vectors) in enumerate(
                    zip(layers, self._matrices, self._vectors, strict=True)
                )
            )
        )
        attention = layers[0].attention
        self._struct = CModel(
            num_layers=len(layers),
            width=model.norm.weight.numel(),
            query_heads=attention.queries,
            kv_heads=attention.kv,
            head_dim=attention.head_dim,
            block_size=cache.block_size,
            first_id=part.vocabulary.start,
            embedding=self._embedding.struct,
            layers=self._structs,
            norm=model.norm.weight.data_ptr(),
            first_query=self._first_query.data_ptr(),
            cos=model.rope.cos.data_ptr(),
            sin=model.rope.sin.data_ptr(),
            eps=model.norm.eps,
            cache_is_bfloat16=self._rounds,
            rounds=self._rounds,
        )

    @property
    def compact_saved_bytes(self) -> int:
        """How much less of the weights a decode step reads than they take in bfloat16."""
        return sum(matrix.saved_bytes for matrices in (*self._matrices, (self.head,)) for matrix in matrices)

    @property
    def screen(self) -> CScreen:
        """What drawing looks at before the head (csrc/screen.h); it lives as long as this object."""
        if self._screen is None:
            return CScreen()
        return CScreen(*(matrix.struct for matrix in self._screen), self._num_panels)

    def takes(self, num_tokens: int) -> bool:
        """Return whether a step of so many tokens is faster here than in PyTorch."""
        return self._is_packed or num_tokens <= MAX_TOKENS

    def __call__(self, step: StepInputs) -> Tensor:
        """Run a step and return the final hidden state of its reported tokens, float32[P, M].

        Raises what the group's all_reduce raises.
        """
        num_tokens, num_reported, width = len(step.ids_N), len(step.reported_P), self.head.columns
        hidden_NM, reported_PM = torch.empty(num_tokens, width), torch.empty(num_reported, width)
        struct = CStep(
            num_tokens=num_tokens,
            num_reported=num_reported,
            hidden=hidden_NM.data_ptr(),
            ids=step.ids_N.data_ptr(),
            positions=step.positions_N.data_ptr(),
            slots=step.slots_N.data_ptr(),
            table_starts=step.table_starts_N.data_ptr(),
            blocks=step.block_tables.data_ptr(),
            reported=step.reported_P.data_ptr(),
            reported_hidden=reported_PM.data_ptr(),
        )
        if self.all_reduce is None:
            self._runner.step(self._struct, struct)
            return reported_PM
        part_NM = torch.empty_like(hidden_NM)
        struct.part = part_NM.data_ptr()
        struct.all_reduce, struct.context = self.all_reduce.function, self.all_reduce.context
        self.all_reduce.check(self._runner.step(self._struct, struct))
        return reported_PM

    def run_passes(self, passes: CPasses) -> None:
        """Run a step's passes. Raises what the group's all_reduce raises."""
        status = self._runner.passes(self._struct, passes)
        if self.all_reduce is not None:
            self.all_reduce.check(status)

    def logits(self, hidden_PM: Tensor) -> Tensor:
        """Return float32[P, V]: the logits over this rank's slice of the vocabulary; of a trimmed head those it has."""
        return self._runner.linear(hidden_PM, self.head, self._rounds)


class _Reduction:
    """The group's all_reduce as a C function. An exception cannot pass through C: it is kept and raised after."""

    def __init__(self, group: RankGroup) -> None:
        self._group = group
        self._error: Exception | None = None
        self._callback = AllReduceFunction(self._reduce)

    def as_native(self) -> NativeAllReduce:
        """Return the C function, which lives as long as this object."""
        function = ctypes.cast(self._callback, ctypes.c_void_p).value
        assert function is not None
        return NativeAllReduce(function, 0, self._check)

    def _reduce(self, context: int | None, part: int, total: int, count: int) -> int:
        try:
            floats = ctypes.c_float * count
            part_C, total_C = (torch.frombuffer(floats.from_address(at), dtype=torch.float32) for at in (part, total))
            total_C.copy_(self._group.all_reduce(part_C))
        except Exception as error:  # whatever it is, the caller of the step gets it
            self._error = error
            return 1
        return 0

    def _check(self, result: int) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error


def _head_vectors(layer: Layer) -> tuple[Tensor | None, ...]:
    """Return bias, query norm and key norm, float32 each, in the order of the C struct."""
    attention = layer.attention
    norms = (None if norm is None else norm.weight for norm in (attention.query_norm, attention.key_norm))
    return (None if attention.qkv_bias is None else attention.qkv_bias.detach().float(), *norms)


def _layer_matrices(layer: Layer) -> tuple[Matrix, ...]:
    """Return the matrices in the order of the C struct."""
    attention, feed_forward = layer.attention, layer.dense
    modules = (attention.qkv, attention.output, feed_forward.gate_up, feed_forward.down)
    return tuple(matrix_of(module) for module in modules)


def matrix_of(linear: Linear) -> Matrix:
    """Return a linear layer's weights as the kernels read them. Raises SettingsError for a form they do not know."""
    match linear:
        case FloatLinear():
            return float_matrix(linear.weight)
        case PackedInt8():
            return packed_int8_matrix(linear.packed, linear.scale, linear.out_features, linear.in_features)
        case PackedInt4():
            return packed_int4_matrix(linear.packed, linear.out_features, linear.in_features, linear.group_size)
        case CompactLinear():
            return compact_matrix(linear.packed, linear.exceptions, linear.out_features, linear.in_features)
        case Int8Linear():
            return int8_matrix(linear.q, linear.scale)
        case Int4Linear() if linear.group_size in INT4_GROUPS:
            return int4_matrix(linear.q, linear.scale, linear.zero, linear.in_features, linear.group_size)
    raise SettingsError(f"no kernel for {type(linear).__name__}")


def _head_matrix(model: Llama) -> Matrix:
    """Return the head in the narrowest type that holds it exactly; the embedding's own memory where they are tied."""
    head, embedding = model.head, model.embedding
    head = head.kept if isinstance(head, TrimmedHead) else head
    if not isinstance(head, FloatLinear):
        return matrix_of(head)
    if isinstance(embedding, FloatLinear) and torch.equal(embedding.weight.float(), head.weight):
        return float_matrix(embedding.weight)
    narrow = head.weight.bfloat16()
    return float_matrix(narrow if torch.equal(narrow.float(), head.weight) else head.weight)
