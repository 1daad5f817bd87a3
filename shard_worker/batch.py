"""The one batch builder: rows of any kind become the tensors of a step."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shard_worker.model.attention import RowBucket
from shard_worker.model.llama import StepInputs
from shard_worker.plan import Counts, Rows, ranges, starts


def build_inputs(
    rows: Rows,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    with_buckets: bool = True,
    windows: Collection[int] = (),
) -> StepInputs:
    """Return the step's inputs. Reported tokens are the sampled ones in row order, then the scored ones.

    The buckets are PyTorch's own need: native code goes by the block tables. `windows` are those of the model's layers.
    """
    positions_N = ranges(rows.base_lengths_R, rows.lengths_R)
    row_of_N = np.repeat(np.arange(len(rows.lengths_R)), rows.lengths_R)
    table_starts_R = starts(rows.blocks_R)
    table_starts_N = table_starts_R[row_of_N]
    slots_N = _slots(rows, table_starts_N, positions_N, block_size)
    equal_lengths = _equal_lengths(rows.lengths_R) if with_buckets else []
    buckets = [_bucket(rows, members, table_starts_R, block_size, dtype, device, windows) for members in equal_lengths]
    ends_R = rows.starts_R + rows.lengths_R
    reported = np.concatenate(
        (ranges(ends_R - rows.sampled_R, rows.sampled_R), ranges(ends_R - rows.scored_R, rows.scored_R))
    )
    return StepInputs(
        ids_N=_to(rows.ids_N.astype(np.int64), device),
        positions_N=_to(positions_N, device),
        slots_N=_to(slots_N, device),
        block_tables=_to(rows.block_tables.copy(), device),
        table_starts_N=_to(table_starts_N, device),
        buckets=buckets,
        reported_P=_to(reported, device),
    )


def _bucket(
    rows: Rows,
    members_B: Counts,
    table_starts_R: Counts,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
    windows: Collection[int],
) -> RowBucket:
    """Return the bucket of these rows, which all have the same length."""
    base_B, n = rows.base_lengths_R[members_B], int(rows.lengths_R[members_B[0]])
    longest = int(base_B.max()) + n
    places_L = np.arange(longest)
    inside_BL = places_L < (base_B + n)[:, None]
    # Padding reads the row's own first slot: always written, hence finite, and masked out below.
    places_BL = np.where(inside_BL, places_L, 0)
    slots_BL = _slots(rows, table_starts_R[members_B][:, None], places_BL, block_size)
    last_visible_Bn1 = (base_B[:, None] + np.arange(n))[:, :, None]

    def mask_BnL(first_visible_Bn1: Counts) -> Tensor:
        visible_BnL = _to((places_L <= last_visible_Bn1) & (places_L >= first_visible_Bn1), device)
        return torch.zeros(visible_BnL.shape, dtype=dtype, device=device).masked_fill_(~visible_BnL, float("-inf"))

    tokens_Bn = rows.starts_R[members_B][:, None] + np.arange(n)
    return RowBucket(
        tokens_Bn=_to(tokens_Bn, device),
        slots_BL=_to(slots_BL, device),
        positions_Bn=_to(last_visible_Bn1[:, :, 0], device),
        mask_BnL=mask_BnL(np.zeros_like(last_visible_Bn1)),
        windowed={window: mask_BnL(last_visible_Bn1 - window + 1) for window in windows},
    )


def _slots(rows: Rows, table_starts: Counts, positions: Counts, block_size: int) -> Counts:
    """Return the KV slots of positions, given where each one's block table starts."""
    blocks: Counts = rows.block_tables[table_starts + positions // block_size].astype(np.int64)
    return blocks * block_size + positions % block_size


def _equal_lengths(lengths_R: Counts) -> list[Counts]:
    """Return the rows of each distinct length."""
    return [np.flatnonzero(lengths_R == length) for length in np.unique(lengths_R)]


def _to(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)
