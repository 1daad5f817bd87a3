"""The decode step's operations by Triton kernels, the same on NVIDIA and AMD.

Imports triton: to be imported only where `selection` found it.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from shard_worker.gpu.kernels.matvec import matvec_int4, matvec_wide
from shard_worker.gpu.kernels.paged_attention import attend_split, join_splits
from shard_worker.gpu.kernels.pointwise import rms_norm, rotate_and_store
from shard_worker.gpu.kernels.skinny import skinny_int4, skinny_wide
from shard_worker.gpu.matrices import Matrix
from shard_worker.gpu.operations import StaticStep
from shard_worker.gpu.tiles import ProductKind, Tile, candidates
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama, Norm
from shard_worker.partition import Partition

# Longer tiles do not fit into registers.
_BLOCK_L = {torch.float32: 32, torch.bfloat16: 64}
_MAX_SPLITS = 32
_PROGRAMS_PER_PROCESSOR = 2
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


class TritonOperations:
    """Kernels for a model of one type: float32, whose products are exact, or bfloat16."""

    def __init__(self, model: Llama, cache: KVCache, part: Partition) -> None:
        self._rope, self._dtype = model.rope, cache.layer(0).dtype
        self._block_size = cache.block_size
        self._tiles: Mapping[ProductKind, Tile] = {}
        self._queries, self._kv = part.query_heads.size, part.kv_heads.size
        first = part.first_queries
        device = model.rope.cos.device
        self._first_query = torch.tensor(first, dtype=torch.int32, device=device)
        most_queries = max(stop - start for start, stop in pairwise(first))
        self._block_g = max(16, _power_of_two(most_queries))
        self._processors = (
            torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
        )

    def use(self, tiles: Mapping[ProductKind, Tile]) -> None:
        """Take these tiles for these kinds of products, instead of fair ones."""
        self._tiles = dict(tiles)

    def linear(
        self, x_NM: Tensor, matrix: Matrix, norm: Norm | None = None, residual_NO: Tensor | None = None
    ) -> Tensor:
        """See Operations."""
        out_NO = torch.empty(len(x_NM), matrix.rows, dtype=torch.float32, device=x_NM.device)
        self.product(x_NM, matrix, norm, residual_NO, out_NO, False, None)
        return out_NO

    def gated(self, x_NM: Tensor, gate_up: Matrix, norm: Norm) -> Tensor:
        """See Operations."""
        out_NO = torch.empty(len(x_NM), gate_up.rows // 2, dtype=self._dtype, device=x_NM.device)
        self.product(x_NM, gate_up, norm, None, out_NO, True, None)
        return out_NO

    def rotate_and_store(self, qkv_NO: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        """See Operations."""
        head_dim = layer_cache.shape[-1]
        q_NHD = qkv_NO.new_empty(len(qkv_NO), self._queries, head_dim, dtype=self._dtype)
        heads, half = self._queries + 2 * self._kv, head_dim // 2
        rotate_and_store[len(qkv_NO), heads](
            qkv_NO, step.positions_N, step.slots_N, self._rope.cos, self._rope.sin, q_NHD, layer_cache,
            QUERIES=self._queries, KV=self._kv, HALF=half, BLOCK_D=_power_of_two(half), num_warps=1,
        )  # fmt: skip
        return q_NHD

    def attend(self, q_NHD: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        """See Operations."""
        N, H, D = q_NHD.shape
        splits = self.splits(N)
        out = q_NHD.new_empty(N, H * D)
        parts = out if splits == 1 else q_NHD.new_empty(N, splits, H, D, dtype=torch.float32)
        sums = q_NHD.new_empty(2, N, splits, H, dtype=torch.float32)
        block_d = max(16, _power_of_two(D))
        attend_split[N, self._kv, splits](
            q_NHD, layer_cache, step.positions_N, step.table_starts_N, step.block_tables, self._first_query,
            parts, sums, math.log2(math.e) / math.sqrt(D), H=H, KV=self._kv, D=D,
            SPLITS=splits, BLOCK_SIZE=self._block_size, X_TYPE=_TYPES[self._dtype],
            BLOCK_G=self._block_g, BLOCK_D=block_d, BLOCK_L=_BLOCK_L[self._dtype], num_warps=4, num_stages=2,
        )  # fmt: skip
        if splits > 1:
            join_splits[N, H](
                parts, sums, out, H=H, D=D, SPLITS=splits, BLOCK_S=_power_of_two(splits), BLOCK_D=block_d, num_warps=2
            )
        return out

    def product(
        self,
        x_NM: Tensor,
        matrix: Matrix,
        norm: Norm | None,
        residual_NO: Tensor | None,
        out_NO: Tensor,
        gated: bool,
        tile: Tile | None,
    ) -> None:
        """Write a product to `out_NO`, by `tile` where one is given: what `linear` and `gated` have in common."""
        block_m = rows_class(len(x_NM))
        tile = tile or self._tile(matrix, gated, block_m)
        run = self._matvec if block_m == 1 else self._skinny
        run(x_NM, matrix, norm, residual_NO, out_NO, gated, tile, block_m)

    def _matvec(
        self,
        x_NM: Tensor,
        matrix: Matrix,
        norm: Norm | None,
        residual_NO: Tensor | None,
        out_NO: Tensor,
        gated: bool,
        tile: Tile,
        block_m: int,
    ) -> None:
        outputs = out_NO.shape[1]
        norm_weight, eps = (x_NM, 0.0) if norm is None else (norm.weight, norm.eps)
        residual = out_NO if residual_NO is None else residual_NO
        flags = {"HAS_NORM": norm is not None, "HAS_RESIDUAL": residual_NO is not None, "GATED": gated}
        layout = _layout(tile, _TYPES[self._dtype])
        grid = (triton.cdiv(outputs, tile.block_n),)
        inputs = (x_NM, norm_weight, residual, matrix.weight)
        if matrix.group_size is not None:
            matvec_int4[grid](
                *inputs, matrix.scale, matrix.zero, out_NO, outputs, matrix.columns, *_row_sizes(matrix), eps,
                GROUP=matrix.group_size, **flags, **layout,
            )  # fmt: skip
            return
        scale = out_NO if matrix.scale is None else matrix.scale
        matvec_wide[grid](
            *inputs, scale, out_NO, outputs, matrix.columns, eps, SCALED=matrix.scale is not None, **flags, **layout
        )

    def _skinny(
        self,
        x_NM: Tensor,
        matrix: Matrix,
        norm: Norm | None,
        residual_NO: Tensor | None,
        out_NO: Tensor,
        gated: bool,
        tile: Tile,
        block_m: int,
    ) -> None:
        # Fused, the norm would be computed anew by every program, and read twice the bytes.
        x_NM = x_NM if norm is None else self._normed(x_NM, norm)
        N, outputs = out_NO.shape
        residual = out_NO if residual_NO is None else residual_NO
        flags = {"HAS_RESIDUAL": residual_NO is not None, "GATED": gated, "BLOCK_M": block_m}
        layout = _layout(tile, _TYPES[self._dtype])
        grid = (triton.cdiv(outputs, tile.block_n), triton.cdiv(N, block_m))
        if matrix.group_size is not None:
            skinny_int4[grid](
                x_NM, residual, matrix.weight, matrix.scale, matrix.zero, out_NO, outputs, N, matrix.columns,
                *_row_sizes(matrix),
                GROUP=matrix.group_size, **flags, **layout,
            )  # fmt: skip
            return
        scale = out_NO if matrix.scale is None else matrix.scale
        skinny_wide[grid](
            x_NM, residual, matrix.weight, scale, out_NO, outputs, N, matrix.columns,
            SCALED=matrix.scale is not None, **flags, **layout,
        )  # fmt: skip

    def _normed(self, x_NM: Tensor, norm: Norm) -> Tensor:
        normed_NM = torch.empty_like(x_NM, dtype=self._dtype)
        width = x_NM.shape[1]
        block = min(4096, _power_of_two(width))
        rms_norm[(len(x_NM),)](x_NM, norm.weight, normed_NM, width, norm.eps, BLOCK_K=block, num_warps=4)
        return normed_NM

    def _tile(self, matrix: Matrix, gated: bool, block_m: int) -> Tile:
        kind = ProductKind.of(matrix, gated, block_m)
        return self._tiles.get(kind) or candidates(kind)[0]

    def splits(self, num_tokens: int) -> int:
        """Return into how many parts each context is cut, so that every processor has work."""
        wanted = _PROGRAMS_PER_PROCESSOR * self._processors // (num_tokens * self._kv)
        return max(1, min(_MAX_SPLITS, wanted))


def rows_class(num_rows: int) -> int:
    """Return the BLOCK_M of a product of so many rows: 1, 16, 32 or 64."""
    return 1 if num_rows == 1 else min(64, max(16, _power_of_two(num_rows)))


def _layout(tile: Tile, x_type: object) -> dict[str, object]:
    return {
        "X_TYPE": x_type,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


def _row_sizes(matrix: Matrix) -> tuple[int, int]:
    """Return the bytes and the groups of an int4 row."""
    assert matrix.scale is not None
    return matrix.weight.shape[1], matrix.scale.shape[1]


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
