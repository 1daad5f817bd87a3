"""The C structs of csrc/kernels.h, decoder.h, screen.h and passes.h, field by field, and matrices made of tensors."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

FLOAT32, BFLOAT16, INT8, INT4_BFLOAT16, INT4_FLOAT32, PACKED_INT8, PACKED_INT4, COMPACT_BFLOAT16 = range(8)
INT4_GROUPS = (32, 64, 128, 256)

# tandem::AllReduce.
AllReduceFunction = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class CMatrix(ctypes.Structure):
    """tandem::Matrix."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("format", ctypes.c_int32),
        ("group", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    ]


class CLayer(ctypes.Structure):
    """tandem::Layer."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("attention_norm", ctypes.c_void_p),
        ("feed_forward_norm", ctypes.c_void_p),
        ("qkv_bias", ctypes.c_void_p),
        ("query_norm", ctypes.c_void_p),
        ("key_norm", ctypes.c_void_p),
        ("window", ctypes.c_int64),
        ("qkv", CMatrix),
        ("output", CMatrix),
        ("gate_up", CMatrix),
        ("down", CMatrix),
        ("cache", ctypes.c_void_p),
    ]


class CModel(ctypes.Structure):
    """tandem::Model."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("num_layers", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("query_heads", ctypes.c_int64),
        ("kv_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("block_size", ctypes.c_int64),
        ("first_id", ctypes.c_int64),
        ("embedding", CMatrix),
        ("layers", ctypes.POINTER(CLayer)),
        ("norm", ctypes.c_void_p),
        ("first_query", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("cache_is_bfloat16", ctypes.c_int32),
        ("rounds", ctypes.c_int32),
    ]


class CStep(ctypes.Structure):
    """tandem::Step."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("num_tokens", ctypes.c_int64),
        ("num_reported", ctypes.c_int64),
        ("hidden", ctypes.c_void_p),
        ("ids", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("table_starts", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("reported", ctypes.c_void_p),
        ("reported_hidden", ctypes.c_void_p),
        ("part", ctypes.c_void_p),
        ("all_reduce", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
    ]


class CDraws(ctypes.Structure):
    """tandem::Draws."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        *((name, ctypes.c_int64) for name in ("num_rows", "size", "first_id", "num_noised", "num_top", "num_raw")),
        *((name, ctypes.c_void_p) for name in ("ids", "logits", "raw", "temperatures", "seeds", "positions")),
        *((name, ctypes.c_void_p) for name in ("noised_ids", "noised_scores", "noised_processed", "noised_raw")),
        *((name, ctypes.c_void_p) for name in ("top_ids", "top_processed", "raw_ids", "raw_logits")),
        *((name, ctypes.c_void_p) for name in ("processed_lse", "raw_lse")),
        ("stride", ctypes.c_int64),
    ]


class CScreen(ctypes.Structure):
    """tandem::Screen."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        ("down", CMatrix),
        ("up", CMatrix),
        ("num_panels", ctypes.c_int64),
    ]


class CPasses(ctypes.Structure):
    """tandem::Passes."""

    _fields_: ClassVar[Sequence[tuple[str, Any]]] = [
        *((name, ctypes.c_int64) for name in ("num_rows", "num_passes")),
        *((name, ctypes.c_void_p) for name in ("rows", "ids", "blocks", "temperatures", "seeds")),
        ("head", CMatrix),
        ("screen", CScreen),
        *((name, ctypes.c_int64) for name in ("size", "first_id", "num_noised", "num_top", "num_raw")),
        *((name, ctypes.c_void_p) for name in ("kept_ids", "hidden", "logits", "records")),
        ("num_ahead", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ahead", "winners")),
        *((name, ctypes.c_int64) for name in ("world_size", "rank")),
        *((name, ctypes.c_void_p) for name in ("all_reduce", "context")),
    ]


@dataclass(frozen=True)
class Matrix:
    """A weight matrix [rows, columns] as the kernels read it, and the tensors that hold its memory."""

    struct: CMatrix
    kept: tuple[Tensor, ...]

    @property
    def is_packed(self) -> bool:
        """Whether rows lie in panels of 16 (csrc/packed.h, csrc/compact.h)."""
        return int(self.struct.format) >= PACKED_INT8

    @property
    def saved_bytes(self) -> int:
        """How many bytes less than in bfloat16 a compact matrix takes; 0 of others."""
        if self.struct.format != COMPACT_BFLOAT16:
            return 0
        return 2 * self.rows * self.columns - sum(tensor.nbytes for tensor in self.kept)

    @property
    def rows(self) -> int:
        """Number of outputs."""
        return int(self.struct.rows)

    @property
    def columns(self) -> int:
        """Number of inputs."""
        return int(self.struct.columns)


def float_matrix(weight_NK: Tensor) -> Matrix:
    """Return the matrix of float32 or bfloat16 weights, [N, K], without a copy where they are contiguous."""
    formats = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16}
    weight_NK = weight_NK.detach().contiguous()
    return _matrix(formats[weight_NK.dtype], weight_NK.shape[1], weight_NK)


def int8_matrix(q_NK: Tensor, scale_N: Tensor) -> Matrix:
    """Return the matrix of w[n, k] = q[n, k] * scale[n]: q int8[N, K], scale float32[N]."""
    assert q_NK.dtype == torch.int8 and scale_N.shape == q_NK.shape[:1]
    scale_N = scale_N.detach().float().contiguous()
    return _matrix(INT8, q_NK.shape[1], q_NK.detach().contiguous(), scale_N)


def int4_matrix(q_NK2: Tensor, scale_NG: Tensor, zero_NG: Tensor, columns: int, group: int) -> Matrix:
    """Return the matrix of w = (q - 8) * scale + zero, group-wise along K.

    q: uint8[N, ceil(K / 2)], the low nibble is the even column. scale, zero: [N, ceil(K / group)], both bfloat16 or
    both float32; they are interleaved here, so that one cache line holds both.
    """
    assert q_NK2.dtype == torch.uint8 and q_NK2.shape[1] == -(-columns // 2) and group in INT4_GROUPS
    assert scale_NG.shape == zero_NG.shape == (len(q_NK2), -(-columns // group)) and scale_NG.dtype == zero_NG.dtype
    formats = {torch.float32: INT4_FLOAT32, torch.bfloat16: INT4_BFLOAT16}
    pairs_NG2 = torch.stack((scale_NG.detach(), zero_NG.detach()), dim=-1).contiguous()
    return _matrix(formats[scale_NG.dtype], columns, q_NK2.detach().contiguous(), pairs_NG2, group)


def packed_int8_matrix(packed: Tensor, scale: Tensor, rows: int, columns: int) -> Matrix:
    """Return the matrix of PackedInt8's tensors (packing.py)."""
    return _matrix(PACKED_INT8, columns, packed, scale, rows=rows)


def packed_int4_matrix(packed: Tensor, rows: int, columns: int, group: int) -> Matrix:
    """Return the matrix of PackedInt4's tensor (packing.py)."""
    return _matrix(PACKED_INT4, columns, packed, group=group, rows=rows)


def compact_matrix(packed: Tensor, exceptions: Tensor, rows: int, columns: int) -> Matrix:
    """Return the matrix of CompactLinear's tensors (compact.py)."""
    return _matrix(COMPACT_BFLOAT16, columns, packed, exceptions, rows=rows)


def _matrix(
    format: int, columns: int, weight: Tensor, scale: Tensor | None = None, group: int = 0, rows: int | None = None
) -> Matrix:
    scale_pointer = None if scale is None else scale.data_ptr()
    struct = CMatrix(format, group, len(weight) if rows is None else rows, columns, weight.data_ptr(), scale_pointer)
    return Matrix(struct, (weight,) if scale is None else (weight, scale))
