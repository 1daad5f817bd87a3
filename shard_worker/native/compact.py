"""bfloat16 matrices at 12 bits a weight, without loss, in the order of csrc/compact.h.

Shapes: P panels of 16 rows, U units of 8 columns, E exceptions; N rows and K columns without padding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shard_worker.model.linear import FloatLinear, Linear
from shard_worker.model.llama import Llama
from shard_worker.native.library import Runner
from shard_worker.native.packing import PANEL_ROWS, Packed, replace_matrices

UNIT_COLUMNS = 8
HEADER_BYTES, TABLE_BYTES, UNIT_BYTES = 64, 16, 192
EXCEPTION_BYTES = 8
# With more exceptions a matrix stays as it is: they cost more than the others save.
WEIGHTS_PER_EXCEPTION = 64
# Rows that PyTorch unpacks at once, which takes some forty bytes a weight.
_CHUNK_ROWS = 1024


class CompactLinear(Packed):
    """A bfloat16 matrix. packed: uint8[P, 64 + 192 U], a header and units; exceptions: uint8[E, 8].

    Of two panels the headers come first, then their units in turn; an odd last panel lies alone.
    """

    packed: Tensor
    exceptions: Tensor

    def __init__(self, packed: Tensor, exceptions: Tensor, rows: int, columns: int) -> None:
        super().__init__(rows, columns)
        self.register_buffer("packed", packed)
        self.register_buffer("exceptions", exceptions)

    def forward(self, x: Tensor) -> Tensor:
        chunks = torch.split(torch.arange(self.out_features), _CHUNK_ROWS)
        return torch.cat([F.linear(x, self._unpacked(chunk).weight.to(x.dtype)) for chunk in chunks], dim=-1)

    def _unpacked(self, rows: Tensor) -> FloatLinear:
        panels, lanes = rows // PANEL_ROWS, rows % PANEL_ROWS
        # Of a unit [codes or low bytes, 4, 2, 4, 2]: quarter of the rows, half of four columns, row, column.
        units = self._units(panels).view(len(rows), -1, 3, 4, 2, 4, 2)
        mine = units[torch.arange(len(rows)), :, :, lanes // 4, :, lanes % 4]
        codes = torch.stack((mine[:, :, 0] & 0xF, mine[:, :, 0] >> 4), dim=2).flatten(1)
        high = self._headers()[panels, :TABLE_BYTES].gather(1, codes.long())
        bytes_NK2 = torch.stack((mine[:, :, 1:].flatten(1), high), dim=-1)[:, : self.in_features].contiguous()
        bits_NK = bytes_NK2.view(torch.int16).squeeze(-1)
        self._put_exceptions(rows, bits_NK)
        return FloatLinear(bits_NK.view(torch.bfloat16))

    @property
    def _pairs(self) -> Tensor:
        """uint8[P / 2, bytes of two panels]."""
        count = len(self.packed) // 2
        return self.packed[: 2 * count].view(count, 2 * self.packed.shape[1])

    def _headers(self) -> Tensor:
        """Return uint8[P, 64]."""
        paired, alone = self._pairs, self.packed[len(self.packed) // 2 * 2 :]
        return torch.cat((paired[:, : 2 * HEADER_BYTES].reshape(-1, HEADER_BYTES), alone[:, :HEADER_BYTES]))

    def _units(self, panels: Tensor) -> Tensor:
        """Return these panels' units, uint8[len(panels), U, 192]."""
        is_alone, pairs = panels >= len(self.packed) // 2 * 2, self._pairs
        units = self.packed.new_empty(len(panels), (self.packed.shape[1] - HEADER_BYTES) // UNIT_BYTES, UNIT_BYTES)
        paired = pairs[:, 2 * HEADER_BYTES :].view(len(pairs), units.shape[1], 2, UNIT_BYTES)
        units[~is_alone] = paired[panels[~is_alone] // 2, :, panels[~is_alone] % 2]
        units[is_alone] = self.packed[panels[is_alone], HEADER_BYTES:].view(-1, *units.shape[1:])
        return units

    def _put_exceptions(self, rows: Tensor, bits_NK: Tensor) -> None:
        bounds_P2 = self._headers()[:, TABLE_BYTES : TABLE_BYTES + 8].contiguous().view(torch.int32)
        columns_E = self.exceptions[:, :4].contiguous().view(torch.int32).flatten()
        lanes_E, weights_E = self.exceptions[:, 4:].contiguous().view(torch.int16).unbind(1)
        panels_E = torch.arange(len(bounds_P2)).repeat_interleave(bounds_P2[:, 1] - bounds_P2[:, 0])
        rows_E = panels_E * PANEL_ROWS + lanes_E  # in ascending order
        first_N, last_N = torch.searchsorted(rows_E, rows), torch.searchsorted(rows_E, rows, right=True)
        counts_N = last_N - first_N
        places = torch.arange(len(rows)).repeat_interleave(counts_N)
        within = torch.arange(len(places)) - (counts_N.cumsum(0) - counts_N)[places]
        chosen = first_N[places] + within
        bits_NK[places, columns_E[chosen].long()] = weights_E[chosen]


def compact(weight_NK: Tensor, runner: Runner) -> CompactLinear | None:
    """Return the matrix of bfloat16[N, K], or None where compact it would not be smaller or exceptions are too many."""
    rows, columns = weight_NK.shape
    panels, units = -(-rows // PANEL_ROWS), -(-columns // UNIT_COLUMNS)
    panel_bytes = HEADER_BYTES + UNIT_BYTES * units
    if panels * panel_bytes >= weight_NK.nbytes:
        return None
    packed = torch.empty(panels, panel_bytes, dtype=torch.uint8)
    exceptions = torch.empty(weight_NK.numel() // WEIGHTS_PER_EXCEPTION, EXCEPTION_BYTES, dtype=torch.uint8)
    count = runner.compact(weight_NK, packed, exceptions)
    return None if count is None else CompactLinear(packed, exceptions[:count].clone(), rows, columns)


def compact_matrices(model: Llama, runner: Runner) -> None:
    """Put compact matrices in the place of the model's bfloat16 ones, and of a float32 head that holds such numbers.

    A head that is the embedding in another type becomes the embedding itself.
    """
    tied = _is_tied(model)

    def made(module: nn.Module) -> Linear | None:
        if not isinstance(module, FloatLinear) or (tied and module is model.head):
            return None
        narrow = module.weight.detach().bfloat16()
        is_narrow = narrow.dtype == module.weight.dtype or torch.equal(narrow.float(), module.weight)
        return compact(narrow.contiguous(), runner) if is_narrow else None

    replace_matrices(model, made)
    if tied and isinstance(model.embedding, CompactLinear):
        model.head = model.embedding


def _is_tied(model: Llama) -> bool:
    embedding, head = model.embedding, model.head
    if not isinstance(embedding, FloatLinear) or not isinstance(head, FloatLinear):
        return False
    return torch.equal(embedding.weight.to(head.weight.dtype), head.weight)
