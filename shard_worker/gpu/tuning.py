"""Choosing every product's tile before a model serves: each is timed over all layers, so that caches help none."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from triton.runtime.errors import TritonError

from shard_worker.gpu.decoder import GraphDecoder
from shard_worker.gpu.matrices import Matrix
from shard_worker.gpu.tiles import ProductKind, Tile, candidates, fastest
from shard_worker.gpu.triton_operations import Product, TritonOperations
from shard_worker.model.llama import Norm

_MISFITS = (RuntimeError, TritonError)

# The head is one matrix, not one a layer; a few runs of it are enough.
_HEAD_RUNS = 4
# BLOCK_M of one row, and of a few; for more a fair tile must do: each try costs a second of compiling.
_TUNED = (1, 16)


@torch.inference_mode()
def tune(operations: TritonOperations, decoder: GraphDecoder) -> None:
    """Find the fastest tile of each kind of product in the model, and let `operations` use them from now on."""
    first, layers = decoder.layers[0].layer, decoder.layers
    roles: list[tuple[Sequence[Matrix], Norm | None, bool, bool]] = [
        ([layer.qkv for layer in layers], first.attention_norm, False, False),
        ([layer.output for layer in layers], None, True, False),
        ([layer.gate_up for layer in layers], first.feed_forward_norm, False, True),
        ([layer.down for layer in layers], None, True, False),
        ([decoder.head] * _HEAD_RUNS, None, False, False),
    ]
    chosen: dict[ProductKind, Tile] = {}
    for rows in _TUNED:
        for matrices, norm, has_residual, gated in roles:
            kind = ProductKind.of(matrices[0], gated, rows)
            if kind not in chosen:
                run = partial(_run_all, operations, matrices, norm, has_residual, gated, rows)
                chosen[kind] = fastest(candidates(kind), run, _MISFITS)
    operations.use(chosen)


def _run_all(
    operations: TritonOperations,
    matrices: Sequence[Matrix],
    norm: Norm | None,
    has_residual: bool,
    gated: bool,
    rows: int,
    tile: Tile,
) -> None:
    device = matrices[0].weight.device
    outputs = matrices[0].rows // (2 if gated else 1)
    # Of the types that a step has there, so that what is compiled now is found again.
    x_NM = torch.ones(rows, matrices[0].columns, device=device, dtype=operations.dtype if has_residual else None)
    out_NO: Tensor = torch.zeros(rows, outputs, device=device, dtype=operations.dtype if gated else None)
    residual_NO = out_NO if has_residual else None
    for matrix in matrices:
        operations.run(Product(x_NM, matrix, norm, residual_NO, out_NO, gated), tile)
