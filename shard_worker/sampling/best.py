"""The best k of each row in a total order: by value, ties to the lower index."""

import torch
from torch import Tensor

_BLOCK = 32  # elements; maxima over a multiple of 16 contiguous floats are the fastest


def best(values_PV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return (indices int64[P, k], values[P, k]) of the k largest of each row, best first, ties to the lower
    index.

    values_PV: float32[P, V]; 1 <= k <= V. torch.topk leaves open which of several equal values it returns,
    and in what order, so it is run on keys that are all different. Keys are dear; only the k blocks with the
    best maxima get them: whatever lies outside has k values before it in the same order. No host
    synchronisation.
    """
    num_rows, size = values_PV.shape
    if k == 1 and num_rows == 1:
        values, indices = values_PV.max(dim=1, keepdim=True)  # documented to give the first of equal maxima
        return indices, values
    device = values_PV.device
    num_blocks = size // _BLOCK
    if num_blocks <= 4 * k:
        indices = torch.arange(size, device=device).expand(num_rows, -1)
        near = values_PV
    else:
        blocks = values_PV[:, : num_blocks * _BLOCK].reshape(num_rows, num_blocks, _BLOCK).amax(dim=2)
        leaders = _keys(blocks, torch.arange(num_blocks, device=device)).topk(k, sorted=False).indices
        inside = (leaders.unsqueeze(2) * _BLOCK + torch.arange(_BLOCK, device=device)).flatten(1)
        rest = torch.arange(num_blocks * _BLOCK, size, device=device).expand(num_rows, -1)
        indices = torch.cat([inside, rest], dim=1)
        near = values_PV.gather(1, indices)
    order = _keys(near, indices).topk(k).indices
    return indices.gather(1, order), near.gather(1, order)


def _keys(values: Tensor, indices: Tensor) -> Tensor:
    """Return int64 keys that order like (value, -index): the float's bits made monotonic, then the index
    reversed.
    """
    bits = (values + 0.0).view(torch.int32)  # adding 0 makes one zero of two
    bits = bits ^ (bits >> 31).bitwise_and_(0x7FFFFFFF)
    return bits.to(torch.int64).bitwise_left_shift_(32).sub_(indices).add_((1 << 32) - 1)
