"""The decode step's operations by Triton kernels, the same on NVIDIA and AMD.

Imports triton: to be imported only where `selection` found it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Product:
    """out[N, O] = norm(x[N, M]) wᵀ + residual, or its two halves as silu(g) * u where `gated`."""

    x_NM: Tensor
    matrix: Matrix
    norm: Norm | None
    residual_NO: Tensor | None
    out_NO: Tensor
    gated: bool

    @property
    def block_m(self) -> int:
        """The kernels' BLOCK_M for so many rows: 1, 16, 32 or 64."""
        return 1 if len(self.x_NM) == 1 else min(64, max(16, _power_of_two(len(self.x_NM))))

    @property
    def kind(self) -> ProductKind:
        """What its tile goes by."""
        return ProductKind.of(self.matrix, self.gated, self.block_m)


class TritonOperations:
    """Kernels for a model of one type: float32, whose products are exact, or bfloat16."""

    def __init__(self, model: Llama, cache: KVCache, part: Partition) -> None:
        self._rope, self.dtype = model.rope, cache.layer(0).dtype
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
        self.run(Product(x_NM, matrix, norm, residual_NO, out_NO, gated=False))
        return out_NO

    def gated(self, x_NM: Tensor, gate_up: Matrix, norm: Norm) -> Tensor:
        """See Operations."""
        out_NO = torch.empty(len(x_NM), gate_up.rows // 2, dtype=self.dtype, device=x_NM.device)
        self.run(Product(x_NM, gate_up, norm, None, out_NO, gated=True))
        return out_NO

    def rotate_and_store(self, qkv_NO: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        """See Operations."""
        head_dim = layer_cache.shape[-1]
        q_NHD = qkv_NO.new_empty(len(qkv_NO), self._queries, head_dim, dtype=self.dtype)
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
            SPLITS=splits, BLOCK_SIZE=self._block_size, X_TYPE=_TYPES[self.dtype],
            BLOCK_G=self._block_g, BLOCK_D=block_d, BLOCK_L=_BLOCK_L[self.dtype], num_warps=4, num_stages=2,
        )  # fmt: skip
        if splits > 1:
            join_splits[N, H](
                parts, sums, out, H=H, D=D, SPLITS=splits, BLOCK_S=_power_of_two(splits), BLOCK_D=block_d, num_warps=2
            )
        return out

    def run(self, product: Product, tile: Tile | None = None) -> None:
        """Write a product, by `tile` where one is given."""
        tile = tile or self._tiles.get(product.kind) or candidates(product.kind)[0]
        run = self._matvec if product.block_m == 1 else self._skinny
        flags = {
            "HAS_RESIDUAL": product.residual_NO is not None,
            "GATED": product.gated,
            "X_TYPE": _TYPES[self.dtype],
            "BLOCK_N": tile.block_n,
            "BLOCK_K": tile.block_k,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }
        run(product, triton.cdiv(product.out_NO.shape[1], tile.block_n), flags)

    def _matvec(self, product: Product, programs: int, flags: dict[str, object]) -> None:
        x_NM, matrix, out_NO, norm = product.x_NM, product.matrix, product.out_NO, product.norm
        norm_weight, eps = (x_NM, 0.0) if norm is None else (norm.weight, norm.eps)
        inputs = (x_NM, norm_weight, _or(product.residual_NO, out_NO), matrix.weight)
        sizes, flags = (out_NO.shape[1], matrix.columns), {"HAS_NORM": norm is not None, **flags}
        if matrix.group_size is None:
            scaled = matrix.scale is not None
            matvec_wide[(programs,)](*inputs, _or(matrix.scale, out_NO), out_NO, *sizes, eps, SCALED=scaled, **flags)
            return
        packed = (matrix.scale, matrix.zero, out_NO, *sizes, *_row_sizes(matrix), eps)
        matvec_int4[(programs,)](*inputs, *packed, GROUP=matrix.group_size, **flags)

    def _skinny(self, product: Product, programs: int, flags: dict[str, object]) -> None:
        matrix, out_NO, block_m = product.matrix, product.out_NO, product.block_m
        # Fused, the norm would be computed anew by every program, and read twice the bytes.
        x_NM = product.x_NM if product.norm is None else self._normed(product.x_NM, product.norm)
        grid, flags = (programs, triton.cdiv(len(out_NO), block_m)), {"BLOCK_M": block_m, **flags}
        inputs = (x_NM, _or(product.residual_NO, out_NO), matrix.weight)
        sizes = (out_NO.shape[1], len(out_NO), matrix.columns)
        if matrix.group_size is None:
            scaled = matrix.scale is not None
            skinny_wide[grid](*inputs, _or(matrix.scale, out_NO), out_NO, *sizes, SCALED=scaled, **flags)
            return
        packed = (matrix.scale, matrix.zero, out_NO, *sizes, *_row_sizes(matrix))
        skinny_int4[grid](*inputs, *packed, GROUP=matrix.group_size, **flags)

    def _normed(self, x_NM: Tensor, norm: Norm) -> Tensor:
        normed_NM = torch.empty_like(x_NM, dtype=self.dtype)
        width = x_NM.shape[1]
        block = min(4096, _power_of_two(width))
        rms_norm[(len(x_NM),)](x_NM, norm.weight, normed_NM, width, norm.eps, BLOCK_K=block, num_warps=4)
        return normed_NM

    def splits(self, num_tokens: int) -> int:
        """Return into how many parts each context is cut, so that every processor has work."""
        wanted = _PROGRAMS_PER_PROCESSOR * self._processors // (num_tokens * self._kv)
        return max(1, min(_MAX_SPLITS, wanted))


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Return `other` where a kernel wants a pointer that it will not follow."""
    return other if tensor is None else tensor


def _row_sizes(matrix: Matrix) -> tuple[int, int]:
    """Return the bytes and the groups of an int4 row."""
    assert matrix.scale is not None
    return matrix.weight.shape[1], matrix.scale.shape[1]


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
