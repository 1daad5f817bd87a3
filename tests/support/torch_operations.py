"""The GPU decode step's operations in plain PyTorch, token by token: what its kernels must compute."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shard_worker.gpu.matrices import Matrix
from shard_worker.gpu.operations import StaticStep
from shard_worker.model.kv_cache import KVCache
from shard_worker.model.llama import Llama, Norm
from shard_worker.model.rope import rotate
from shard_worker.partition import Partition
from shard_worker.quantization.formats import dequantize_int4, dequantize_int8


def dense(matrix: Matrix) -> Tensor:
    """Return a matrix's values, float32[N, K]."""
    if matrix.scale is None:
        return matrix.weight.float()
    if matrix.group_size is None:
        return dequantize_int8(matrix.weight, matrix.scale)
    assert matrix.zero is not None
    return dequantize_int4(matrix.weight, matrix.scale, matrix.zero, matrix.group_size, matrix.columns)


class TorchOperations:
    """Operations (shard_worker.gpu.operations), float32 throughout."""

    def __init__(self, model: Llama, cache: KVCache, part: Partition) -> None:
        self._rope, self._block_size = model.rope, cache.block_size
        self._queries, self._kv, self._kv_of_query = part.query_heads.size, part.kv_heads.size, list(part.kv_of_query)

    def linear(
        self, x_NM: Tensor, matrix: Matrix, norm: Norm | None = None, residual_NO: Tensor | None = None
    ) -> Tensor:
        out_NO = F.linear(x_NM if norm is None else norm(x_NM), dense(matrix))
        return out_NO if residual_NO is None else out_NO + residual_NO

    def gated(self, x_NM: Tensor, gate_up: Matrix, norm: Norm) -> Tensor:
        gate_NF, up_NF = self.linear(x_NM, gate_up, norm).chunk(2, dim=-1)
        return F.silu(gate_NF) * up_NF

    def rotate_and_store(self, qkv_NO: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        qkv_NHD = qkv_NO.view(len(qkv_NO), -1, layer_cache.shape[-1])
        rotated = self._queries + self._kv
        qk_NHD = rotate(qkv_NHD[:, :rotated], *self._rope(step.positions_N.clamp(min=0)))
        stored = step.slots_N >= 0
        kv_NHD = torch.cat((qk_NHD[:, self._queries :], qkv_NHD[:, rotated:]), dim=1)
        layer_cache[step.slots_N[stored]] = kv_NHD[stored].to(layer_cache.dtype)
        return qk_NHD[:, : self._queries].contiguous()

    def attend(self, q_NHD: Tensor, layer_cache: Tensor, step: StaticStep) -> Tensor:
        out_NHD = torch.zeros_like(q_NHD)
        for token, position in enumerate(step.positions_N.tolist()):
            places = torch.arange(position + 1, device=q_NHD.device)
            blocks = step.block_tables[step.table_starts_N[token] + places // self._block_size].long()
            kv_LHD = layer_cache[blocks * self._block_size + places % self._block_size].float()
            k_LHD, v_LHD = (part[:, self._kv_of_query] for part in kv_LHD.chunk(2, dim=1))
            scores_HL = torch.einsum("hd,lhd->hl", q_NHD[token].float(), k_LHD) / math.sqrt(q_NHD.shape[-1])
            out_NHD[token] = torch.einsum("hl,lhd->hd", scores_HL.softmax(dim=1), v_LHD) if len(places) else 0
        return out_NHD.flatten(1)
