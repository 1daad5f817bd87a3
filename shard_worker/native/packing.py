"""Quantised matrices in the order of csrc/packed.h: sixteen rows side by side, so that a lane of a register is a row.

Shapes: P panels of 16 rows, B blocks of 32 columns, G groups of columns; N rows and K columns without padding.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import SettingsError
from shard_worker.model.linear import Int4Linear, Int8Linear, Linear
from shard_worker.native.structures import INT4_GROUPS
from shard_worker.quantization.formats import pack_nibbles, unpack_nibbles

PANEL_ROWS = 16
BLOCK_COLUMNS = 32
INT8_OFFSET = 128
_PAIR_BYTES = PANEL_ROWS * 4


class Packed(Linear):
    """A packed matrix. PyTorch unpacks it: it looks rows up, and multiplies only where native code does not."""

    @abstractmethod
    def _unpacked(self, rows: Tensor) -> Linear:
        """Return the matrix of these rows, int64[N], in the checkpoint's format."""

    def forward(self, x: Tensor) -> Tensor:
        return self._unpacked(torch.arange(self.out_features)).forward(x)

    def rows(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        unpacked = self._unpacked(ids.reshape(-1))
        return unpacked.rows(torch.arange(ids.numel()), dtype).view(*ids.shape, self.in_features)


class PackedInt8(Packed):
    """Int8Linear's matrix. packed: uint8[P, B, 8, 16, 4] of q + 128; scale float32[16 P]. Padding is q = scale = 0."""

    packed: Tensor
    scale: Tensor

    def __init__(self, linear: Int8Linear) -> None:
        super().__init__(linear.out_features, linear.in_features)
        self.register_buffer("packed", pack_int8(linear.q))
        self.register_buffer("scale", F.pad(linear.scale.float(), (0, -len(linear.scale) % PANEL_ROWS)))

    def _unpacked(self, rows: Tensor) -> Int8Linear:
        runs = self.packed[rows // PANEL_ROWS, :, :, rows % PANEL_ROWS].flatten(1)[:, : self.in_features]
        return Int8Linear((runs ^ INT8_OFFSET).view(torch.int8), self.scale[rows])


class PackedInt4(Packed):
    """Int4Linear's matrix. packed: uint8[P, G, 64 + 256 * group_size / 32].

    A group is bfloat16[16, 2], scale and zero, then each block's uint8[4, 16, 4]: the low nibble is column 4 i + j of
    the block at [i, :, j], the high one 16 columns later.
    """

    packed: Tensor

    def __init__(self, linear: Int4Linear) -> None:
        super().__init__(linear.out_features, linear.in_features)
        self.group_size = linear.group_size
        self.register_buffer("packed", pack_int4(linear))

    def _unpacked(self, rows: Tensor) -> Int4Linear:
        panels, lanes = rows // PANEL_ROWS, rows % PANEL_ROWS
        groups = self.packed.shape[:2]
        pairs = self.packed[..., :_PAIR_BYTES].view(torch.bfloat16).view(*groups, PANEL_ROWS, 2)[panels, :, lanes]
        blocks = self.packed[..., _PAIR_BYTES:].reshape(*groups, -1, 4, PANEL_ROWS, 4)[panels, :, :, :, lanes]
        q_NK = torch.stack((blocks & 0xF, blocks >> 4), dim=3).flatten(1)[:, : self.in_features]
        scale, zero = (pairs[..., side].contiguous() for side in (0, 1))
        return Int4Linear(pack_nibbles(q_NK), scale, zero, self.group_size, self.in_features)


def pack_int8(q_NK: Tensor) -> Tensor:
    """Return q int8[N, K] as PackedInt8 has it."""
    rows, columns = q_NK.shape
    padded = F.pad(
        q_NK.view(torch.uint8) ^ INT8_OFFSET, (0, -columns % BLOCK_COLUMNS, 0, -rows % PANEL_ROWS), value=128
    )
    runs = padded.view(len(padded) // PANEL_ROWS, PANEL_ROWS, -1, BLOCK_COLUMNS // 4, 4)
    return runs.permute(0, 2, 3, 1, 4).contiguous()


def pack_int4(linear: Int4Linear) -> Tensor:
    """Return an int4 matrix as PackedInt4 has it."""
    missing_rows, missing_columns = -linear.out_features % PANEL_ROWS, -linear.in_features % linear.group_size
    q_NK = F.pad(unpack_nibbles(linear.q, linear.in_features), (0, missing_columns, 0, missing_rows))
    # [P, 16, G, blocks, low or high, 4, 4]
    panels, group_blocks = len(q_NK) // PANEL_ROWS, linear.group_size // BLOCK_COLUMNS
    nibbles = q_NK.view(panels, PANEL_ROWS, -1, group_blocks, 2, 4, 4)
    bytes_ = (nibbles[:, :, :, :, 0] | nibbles[:, :, :, :, 1] << 4).permute(0, 2, 3, 4, 1, 5)
    pairs_NG2 = F.pad(torch.stack((linear.scale, linear.zero), dim=-1), (0, 0, 0, 0, 0, missing_rows))
    pairs = pairs_NG2.view(panels, PANEL_ROWS, -1, 2).transpose(1, 2).contiguous().view(torch.uint8)
    return torch.cat((pairs.flatten(2), bytes_.flatten(2)), dim=-1)


def pack_matrices(model: nn.Module) -> None:
    """Put packed matrices in the place of all quantised ones of the model; those that are one stay one.

    Raises SettingsError, and changes nothing, where one of them has groups that no kernel knows.
    """
    for module in model.modules():
        if isinstance(module, Int4Linear) and module.group_size not in INT4_GROUPS:
            raise SettingsError(f"no kernel for int4 in groups of {module.group_size} columns")
    replace_matrices(model, _packed)


def replace_matrices(model: nn.Module, make: Callable[[nn.Module], Linear | None]) -> None:
    """Put what `make` returns, if anything, in the place of each module; those that are one stay one."""
    made: dict[nn.Module, Linear] = {}
    for module in list(model.modules()):
        for name, child in list(module.named_modules(remove_duplicate=False)):
            if "." in name or child is module:
                continue  # children only, but a child of two names under both
            if child not in made and (new := make(child)):
                made[child] = new
            if child in made:
                setattr(module, name, made[child])


def _packed(module: nn.Module) -> Linear | None:
    match module:
        case Int8Linear():
            return PackedInt8(module)
        case Int4Linear():
            return PackedInt4(module)
    return None
