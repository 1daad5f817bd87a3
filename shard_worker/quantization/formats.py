"""What the numbers of a quantised matrix mean, and rounding to nearest. The same on every device.

A matrix is [N, K]: N output features, K input features.

    int8   q int8[N, K], scale float32[N]                             w = q * scale
    int4   q uint8[N, ceil(K / 2)], two columns a byte, the even one in the low nibble;
           scale, zero bfloat16[N, ceil(K / group)]                   w = (q - 8) * scale + zero

int8 is symmetric, an output row at a time; int4 is gpt-fast's: asymmetric, in groups of columns, of which the last may
be partial.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import CheckpointError

INT8_MAX = 127
INT4_MAX = 15
INT4_MIDDLE = 8


def quantize_int8(w_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Return q and scale of the int8 format. A row of zeros has scale 0. Raises CheckpointError unless w is finite."""
    w_NK = _finite(w_NK)
    scale_N = w_NK.abs().amax(dim=1) / INT8_MAX
    q_NK = (w_NK / _divisor(scale_N).unsqueeze(1)).round().clamp(-INT8_MAX, INT8_MAX)
    return q_NK.to(torch.int8), scale_N


def dequantize_int8(q_NK: Tensor, scale_N: Tensor) -> Tensor:
    """Return float32[N, K]."""
    return q_NK.float() * scale_N.unsqueeze(1)


def quantize_int4(w_NK: Tensor, group_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, scale and zero of the int4 format, rounded to nearest. Raises CheckpointError unless w is finite."""
    w_NK = _finite(w_NK)
    columns = w_NK.shape[1]
    w_NGg = grouped(w_NK, group_size)
    scale_NG, zero_NG = grid(w_NGg.amin(dim=-1), w_NGg.amax(dim=-1))
    q_NK = nearest_int4(w_NGg, scale_NG.unsqueeze(-1), zero_NG.unsqueeze(-1)).flatten(1)[:, :columns]
    return pack_nibbles(q_NK), scale_NG, zero_NG


def grouped(w_NK: Tensor, group_size: int) -> Tensor:
    """Return w[N, G, group_size]; a partial group is filled up with its last column, which changes no extremes."""
    rows, columns = w_NK.shape
    filling = w_NK[:, -1:].expand(rows, -columns % group_size)
    return torch.cat((w_NK, filling), dim=1).view(rows, -1, group_size)


def grid(least: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero, bfloat16, of grids that span [least, largest], all of one shape.

    Where both are equal, scale is 0 and zero is that value. Raises CheckpointError where bfloat16 cannot express them.
    """
    scale = ((largest - least) / INT4_MAX).bfloat16()
    # From the rounded scale, so that the grid's middle, not its end, takes the rounding.
    zero = torch.where(scale == 0, least, (least + largest + scale) / 2).bfloat16()
    if not (scale.isfinite().all() and zero.isfinite().all()):
        raise CheckpointError("a group of weights spans more than a bfloat16 scale can express")
    return scale, zero


def nearest_int4(w: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the nearest grid points, 0 to 15 as uint8; scale and zero broadcast to w's shape."""
    steps = ((w - zero.float()) / _divisor(scale.float())).round() + INT4_MIDDLE
    return steps.clamp(0, INT4_MAX).to(torch.uint8)


def int4_values(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the float32 values of grid points; scale and zero broadcast to q's shape."""
    return torch.addcmul(zero.float(), q.float() - INT4_MIDDLE, scale.float())


def dequantize_int4(packed: Tensor, scale_NG: Tensor, zero_NG: Tensor, group_size: int, columns: int) -> Tensor:
    """Return float32[N, columns]."""
    q_NK = F.pad(unpack_nibbles(packed, columns), (0, -columns % group_size))
    q_NGg = q_NK.view(*scale_NG.shape, group_size)
    w_NGg = int4_values(q_NGg, scale_NG.unsqueeze(-1), zero_NG.unsqueeze(-1))
    return w_NGg.flatten(1)[:, :columns]


def per_column(part_NG: Tensor, group_size: int, columns: int) -> Tensor:
    """Return each group's entry for every column of it, [N, columns]."""
    return part_NG.repeat_interleave(group_size, dim=1)[:, :columns]


def pack_nibbles(q_NK: Tensor) -> Tensor:
    """Return uint8[N, ceil(K / 2)]; the last high nibble is 0 where K is odd."""
    even = F.pad(q_NK, (0, q_NK.shape[1] % 2))
    return even[:, 0::2] | even[:, 1::2] << 4


def unpack_nibbles(packed: Tensor, columns: int) -> Tensor:
    """Return uint8[N, columns]."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(1)[:, :columns]


def _finite(w: Tensor) -> Tensor:
    w = w.float()
    if not w.isfinite().all():
        raise CheckpointError("a weight is not a finite number")
    return w


def _divisor(scale: Tensor) -> Tensor:
    return torch.where(scale == 0, 1.0, scale)
