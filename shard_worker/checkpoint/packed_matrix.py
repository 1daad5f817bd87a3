"""Int4 matrices of other formats, read into ours without being rounded anew.

All of them hold w = (q - z) * s, with whole numbers q and z of 0 to 15 (GPTQ's z: to 16) and a scale s for a group of
columns; ours is w = (q - 8) * scale + zero. q is taken over as it is, scale is s and zero is (8 - z) * s, each rounded
to bfloat16. Exact where s is a bfloat16 and z is 8; otherwise a weight moves by at most 8 * 2^-8 s for the scale and
8 * 2^-8 s for the zero: by 1/16 of its format's step, where rounding to nearest moves it by up to 1/2.

N output features, K columns, G groups; eight numbers lie in an int32, the first in its lowest bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.errors import CheckpointError
from shard_worker.checkpoint.huggingface_int4 import Method, Packing
from shard_worker.checkpoint.safetensors_header import StoredTensor
from shard_worker.checkpoint.source import row_blocks
from shard_worker.quantization.formats import INT4_MIDDLE, pack_nibbles

PER_WORD = 8
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
AWQ_COLUMNS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which of a word's numbers is the first, the second and so on: AWQ deals even ones out before odd ones."""


@dataclass(frozen=True)
class PartNames:
    """What a format calls its tensors, and which dimension of q is packed; the others' is that of output features."""

    q: str
    scale: str
    zero: str
    order: str
    q_lies_NK: bool = False
    q_packs_columns: bool = True


PARTS: dict[Method, PartNames] = {
    "awq": PartNames("qweight", "scales", "qzeros", "g_idx", q_packs_columns=False),
    "gptq": PartNames("qweight", "scales", "qzeros", "g_idx"),
    "compressed-tensors": PartNames(
        "weight_packed", "weight_scale", "weight_zero_point", "weight_g_idx", q_lies_NK=True
    ),
}
SHAPE = "weight_shape"
"""compressed-tensors says it beside the packed matrix, whose words are filled up."""


class PackedMatrix:
    """The matrix `name`, [N, K], of which `tensors` holds the parts.

    Raises CheckpointError, naming it, when a part is missing or misshapen, or groups are not of neighbouring columns.
    """

    def __init__(self, name: str, tensors: dict[str, StoredTensor], packing: Packing) -> None:
        self.name, self._packing, self._parts = name, packing, PARTS[packing.method]
        self._tensors = {part: tensors[f"{name}.{part}"] for part in self.part_names if f"{name}.{part}" in tensors}
        self.shape = self._shape()
        if min(self.shape) < 1:
            raise CheckpointError(f"{self.name} is a matrix of {list(self.shape)}")
        self._group_size = packing.group_size or self.shape[1]
        self._check_parts()
        self._check_order()

    @property
    def part_names(self) -> list[str]:
        """What comes after the matrix' name in the names of its tensors; not all need be there."""
        return [self._parts.q, self._parts.scale, self._parts.zero, self._parts.order, SHAPE]

    def blocks(self, part: str, start: int, stop: int | None, group_size: int) -> Iterator[Tensor]:
        """Yield rows [start, stop) of our q, scale or zero, in groups of `group_size` columns, block by block."""
        rows = (self.shape[0] if stop is None else stop) - start
        for block in row_blocks(rows, self.shape[1]):
            yield self._part(part, start + block.start, start + block.stop, group_size)

    def _part(self, part: str, start: int, stop: int, group_size: int) -> Tensor:
        if part == "q":
            return pack_nibbles(self._numbers_NK(start, stop))
        # Our groups are the format's or parts of them: each takes the numbers of the one that it lies in.
        groups = torch.arange(0, self.shape[1], group_size) // self._group_size
        scale_NG = self._scale_NG(start, stop)[:, groups]
        if not scale_NG.isfinite().all():
            raise CheckpointError(f"{self.name}.{self._parts.scale} holds a number that is not finite")
        if part == "scale":
            return scale_NG.bfloat16()
        zero_NG = self._zeros_NG(start, stop)[:, groups]
        return ((INT4_MIDDLE - zero_NG.float()) * scale_NG).bfloat16()

    def _numbers_NK(self, start: int, stop: int) -> Tensor:
        if self._parts.q_lies_NK:
            return unpacked(self._read(self._parts.q, slice(start, stop)))[:, : self.shape[1]]
        if self._parts.q_packs_columns:
            return unpacked(self._read(self._parts.q, slice(None), slice(start, stop)).T)
        return self._packed_rows(self._parts.q, start, stop).T

    def _scale_NG(self, start: int, stop: int) -> Tensor:
        if self._parts.q_lies_NK:
            return self._read(self._parts.scale, slice(start, stop)).float()
        return self._read(self._parts.scale, slice(None), slice(start, stop)).T.float()

    def _zeros_NG(self, start: int, stop: int) -> Tensor:
        if not self._packing.has_zeros:
            return torch.full((stop - start, self._groups), INT4_MIDDLE)
        if self._parts.q_lies_NK:
            first = start // PER_WORD
            words_Ng = self._read(self._parts.zero, slice(first, -(-stop // PER_WORD)))
            return unpacked(words_Ng.T).T[start - first * PER_WORD : stop - first * PER_WORD]
        stored_NG = self._packed_rows(self._parts.zero, start, stop).T
        # Wraps around as AutoGPTQ's own kernels do: a zero of 0 was stored as 15.
        return (stored_NG + self._packing.offset) % (1 << 4)

    def _packed_rows(self, part: str, start: int, stop: int) -> Tensor:
        """Return uint8[*, stop - start] of a part whose words hold eight output features each."""
        first = start // PER_WORD
        words = self._read(part, slice(None), slice(first, -(-stop // PER_WORD)))
        order = AWQ_COLUMNS if self._packing.method == "awq" else range(PER_WORD)
        return unpacked(words, tuple(order))[:, start - first * PER_WORD : stop - first * PER_WORD]

    def _shape(self) -> tuple[int, int]:
        q = self._tensors[self._parts.q].shape
        if len(q) != 2:
            raise CheckpointError(f"{self.name}.{self._parts.q} is {list(q)}, not a matrix")
        if not self._parts.q_lies_NK:
            return (q[1], q[0] * PER_WORD) if self._parts.q_packs_columns else (q[1] * PER_WORD, q[0])
        stored = self._tensors.get(SHAPE)
        if stored is None or (stored.shape, stored.dtype) not in [((2,), torch.int64), ((2,), torch.int32)]:
            raise CheckpointError(f"{self.name}.{SHAPE} is missing, or not two whole numbers")
        rows, columns = self._read(SHAPE).tolist()
        return rows, columns

    @property
    def _groups(self) -> int:
        return -(-self.shape[1] // self._group_size)

    def _check_parts(self) -> None:
        (rows, columns), groups = self.shape, self._groups
        words = -(-rows // PER_WORD), -(-columns // PER_WORD)
        if self._parts.q_lies_NK:
            shapes = {self._parts.q: (rows, words[1]), self._parts.scale: (rows, groups)}
            zero_shape = (words[0], groups)
        else:
            q_shape = (words[1], rows) if self._parts.q_packs_columns else (columns, words[0])
            shapes = {self._parts.q: q_shape, self._parts.scale: (groups, rows)}
            zero_shape = (groups, words[0])
        if self._packing.has_zeros:
            shapes[self._parts.zero] = zero_shape
        elif self._parts.zero in self._tensors:
            raise CheckpointError(f"{self.name}.{self._parts.zero} is there, but config.json says symmetric")
        for part, shape in shapes.items():
            stored = self._tensors.get(part)
            if stored is None:
                raise CheckpointError(f"missing tensors: {self.name}.{part}")
            if stored.shape != shape:
                raise CheckpointError(f"{self.name}.{part} is {list(stored.shape)}, not {list(shape)}")
            if stored.dtype not in (FLOATS if part == self._parts.scale else (torch.int32,)):
                raise CheckpointError(f"{self.name}.{part} has type {stored.dtype}")

    def _check_order(self) -> None:
        if self._parts.order not in self._tensors:
            return
        found = self._read(self._parts.order)
        wanted = torch.arange(self.shape[1]) // self._group_size
        if found.shape != wanted.shape or not torch.equal(found.long(), wanted):
            raise CheckpointError(
                f"{self.name} is quantised with columns in an order of their own (act-order, desc_act): "
                "groups of our int4 are neighbouring columns"
            )

    def _read(self, part: str, *index: slice) -> Tensor:
        stored = self._tensors[part]
        try:
            with safe_open(stored.file, framework="pt") as file:
                tensor: Tensor = file.get_slice(f"{self.name}.{part}")[index or (slice(None),)]
        except SafetensorError as error:
            raise CheckpointError(f"{stored.file}: {error}") from error
        return tensor


def unpacked(words: Tensor, order: tuple[int, ...] = tuple(range(PER_WORD))) -> Tensor:
    """Return uint8[R, 8 C], the numbers in words int32[R, C], each word's in `order`."""
    shifts = 4 * torch.tensor(order, dtype=torch.int32)
    return ((words.unsqueeze(-1) >> shifts) & 0xF).to(torch.uint8).flatten(1)
