"""GPTQ through a whole model: a layer at a time, on the inputs that the quantised layers before it produce.

In memory at once: the hidden states of the calibration text, one layer in float32, and one Gram matrix.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from common.errors import CheckpointError
from common.manifest import UNQUANTIZED, Architecture, Quantization
from shard_worker.batch import build_inputs
from shard_worker.checkpoint.layout import DTYPES
from shard_worker.checkpoint.reader import CheckpointReader, Progress
from shard_worker.checkpoint.weight_shapes import matrix_format
from shard_worker.model.attention import HeadMap, fast_attention
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.model.llama import Layer, StepInputs
from shard_worker.model.matrices import MatrixReader
from shard_worker.model.weights import fill_layer, rope_tables
from shard_worker.parallel import RankGroup
from shard_worker.partition import Span, partition
from shard_worker.plan import Rows
from shard_worker.quantization.formats import dequantize_int4
from shard_worker.quantization.gptq import quantize_gptq
from shard_worker.quantization.gptq_tensors import layer_file

Run = Callable[[Tensor], Tensor]


@torch.inference_mode()
def solve_layers(
    reader: CheckpointReader,
    ids_Sn: Tensor,
    quantization: Quantization,
    folder: Path,
    device: torch.device,
    progress: Progress,
) -> None:
    """Quantise every decoder layer and leave it in `folder`, as `GptqTensors` reads it.

    `ids_Sn` is int64[sequences, n], the calibration text. Raises CheckpointError, naming the layer, when it cannot be
    quantised.
    """
    arch = reader.manifest.architecture
    if arch.variations is not None and arch.variations.experts is not None:
        raise CheckpointError("GPTQ does not know experts: most see too little of a calibration text; round to nearest")
    matrices = MatrixReader(reader, UNQUANTIZED, torch.float32, device)
    embedding = matrices.rows(
        [("embedding.weight", Span(0, arch.vocabulary_size))], arch.hidden_size, DTYPES[reader.manifest.dtype]
    )
    scale = 1.0 if arch.variations is None else arch.variations.embedding_scale
    hidden_SnM = embedding.rows(ids_Sn.to(device), torch.float32) * scale
    del embedding
    part = partition(arch, 0, 1)
    heads = HeadMap(torch.tensor(part.kv_of_query, device=device), part.queries_per_kv)
    sequence = _Sequence(arch, ids_Sn.shape[1], device)
    for index in range(arch.layers):
        progress("solving layers", index, arch.layers)
        with torch.device("meta"):
            layer = Layer(arch, part, fast_attention, heads, RankGroup(0, 1, epoch=1), index)
        fill_layer(layer, matrices, index, arch, part, device)
        solved = _LayerResult(index, quantization)
        try:
            _solve_layer(layer, sequence, hidden_SnM, solved)
        except CheckpointError as error:
            raise CheckpointError(f"layer {index}: {error}") from error
        save_file(solved.tensors, layer_file(folder, index))
    progress("solving layers", arch.layers, arch.layers)


def _solve_layer(layer: Layer, sequence: "_Sequence", hidden_SnM: Tensor, solved: "_LayerResult") -> None:
    """Quantise the layer's matrices in the order of computation, and run `hidden_SnM` through it, in place."""
    attention, feed_forward = layer.attention, layer.dense
    rope = sequence.local_rope if layer.rotates_locally else sequence.rope

    def attend(x_nM: Tensor) -> Tensor:
        attended = attention(layer.attention_norm(x_nM), sequence.step, rope, sequence.cache, 0)
        added: Tensor = layer.attention_output_norm(attended)
        return added

    def feed(x_nM: Tensor) -> Tensor:
        added: Tensor = layer.feed_forward_output_norm(feed_forward(layer.feed_forward_norm(x_nM)))
        return added

    heads, head_dim = (attention.queries, attention.kv, attention.kv), attention.head_dim
    qkv_rows = [count * head_dim for count in heads]
    gram_KK = _gram(layer.attention_norm(x_nM) for x_nM in hidden_SnM)
    attention.qkv = solved.solve(
        ("attention.query", "attention.key", "attention.value"), qkv_rows, attention.qkv, gram_KK
    )
    gram_KK = _gram(_inputs_of(attention.output, attend, hidden_SnM))
    attention.output = solved.solve(("attention.output",), [attention.output.out_features], attention.output, gram_KK)
    for x_nM in hidden_SnM:
        x_nM += attend(x_nM)
    gram_KK = _gram(layer.feed_forward_norm(x_nM) for x_nM in hidden_SnM)
    wide = feed_forward.gate_up.out_features // 2
    feed_forward.gate_up = solved.solve(
        ("feed_forward.gate", "feed_forward.up"), [wide, wide], feed_forward.gate_up, gram_KK
    )
    gram_KK = _gram(_inputs_of(feed_forward.down, feed, hidden_SnM))
    feed_forward.down = solved.solve(
        ("feed_forward.down",), [feed_forward.down.out_features], feed_forward.down, gram_KK
    )
    for x_nM in hidden_SnM:
        x_nM += feed(x_nM)


class _LayerResult:
    """The quantised matrices of one layer, under their names in a checkpoint."""

    def __init__(self, index: int, quantization: Quantization) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._index = index
        self._quantization = quantization

    def solve(self, roles: Sequence[str], rows: list[int], linear: Linear, gram_KK: Tensor) -> Linear:
        """Quantise matrices that lie below one another in `linear`, and return what became of it."""
        assert isinstance(linear, FloatLinear)
        names = [f"layers.{self._index}.{role}.weight" for role in roles]
        group_size = matrix_format(names[0], self._quantization).group_size
        assert group_size is not None
        solved = quantize_gptq(linear.weight, gram_KK, group_size)
        for part, tensor in zip(("q", "scale", "zero"), solved, strict=True):
            for name, piece in zip(names, torch.split(tensor, rows), strict=True):
                self.tensors[f"{name}.{part}"] = piece.cpu().contiguous()
        return FloatLinear(dequantize_int4(*solved, group_size, linear.in_features))


class _Sequence:
    """What a layer needs beside hidden states to run one calibration sequence of n tokens, alone in a step."""

    def __init__(self, arch: Architecture, length: int, device: torch.device) -> None:
        one = np.ones(1, dtype=np.int64)
        rows = Rows(
            sequences_R=0 * one,
            base_lengths_R=0 * one,
            lengths_R=length * one,
            sampled_R=0 * one,
            scored_R=0 * one,
            ids_N=np.zeros(length, dtype=np.int32),
            blocks_R=one,
            block_tables=np.zeros(1, dtype=np.int32),
            scored_ids_S=np.zeros(0, dtype=np.int32),
            run_ahead_R=0 * one,
        )
        windows = {window for window in (arch.variations.windows if arch.variations else ()) if window is not None}
        self.step: StepInputs = build_inputs(rows, length, torch.float32, device, windows=windows)
        rope, local_rope = rope_tables(arch, length, device)
        self.rope = rope(self.step.positions_N)
        self.local_rope = (local_rope or rope)(self.step.positions_N)
        self.cache = KVCache(1, 1, length, arch.kv_heads, arch.head_dim, torch.float32, device)


def _gram(inputs: Iterable[Tensor]) -> Tensor:
    """Return the sum of xᵀ x over inputs x[n, K], float32[K, K]."""
    total_KK: Tensor | None = None
    for x_nK in inputs:
        total_KK = x_nK.T @ x_nK if total_KK is None else total_KK.addmm_(x_nK.T, x_nK)
    assert total_KK is not None
    return total_KK


def _inputs_of(module: Linear, run: Run, hidden_SnM: Tensor) -> Iterator[Tensor]:
    """Yield what `module` is given while `run` goes over each sequence."""
    caught: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        for x_nM in hidden_SnM:
            run(x_nM)
            yield caught.pop()
    finally:
        hook.remove()
