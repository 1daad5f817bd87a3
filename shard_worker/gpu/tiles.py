"""Which tile of a product's kernel is the fastest here? Tried out on the model's own matrices when it is loaded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from shard_worker.gpu.matrices import Matrix

_REPEATS = 3

TimeMs = Callable[[Callable[["Tile"], None], "Tile"], float]


@dataclass(frozen=True)
class Tile:
    """Outputs and inputs of a program's tile, and how the compiler lays it out."""

    block_n: int
    block_k: int
    warps: int
    stages: int = 3


@dataclass(frozen=True)
class ProductKind:
    """Products for which one tile is right: of equal shape, format and number of rows (1, or up to `block_m`)."""

    rows: int
    columns: int
    dtype: torch.dtype
    group_size: int | None
    gated: bool
    block_m: int

    @classmethod
    def of(cls, matrix: Matrix, gated: bool, block_m: int) -> "ProductKind":
        """Return the kind of a product with this matrix."""
        return cls(matrix.rows, matrix.columns, matrix.weight.dtype, matrix.group_size, gated, block_m)


# Bytes in flight hide the memory's latency: narrow formats want longer tiles. The first of each is the default.
_MATVEC_WIDE = (Tile(4, 1024, 4), Tile(8, 512, 4), Tile(2, 2048, 4), Tile(8, 1024, 8))
_MATVEC_INT4 = (Tile(8, 1024, 4), Tile(4, 2048, 4), Tile(8, 2048, 8), Tile(16, 1024, 4), Tile(2, 4096, 4))
_SKINNY_WIDE = (Tile(32, 128, 4, 4), Tile(16, 256, 4, 4), Tile(64, 128, 4, 4), Tile(32, 256, 8, 3))
_SKINNY_INT4 = (Tile(32, 256, 4), Tile(16, 256, 4), Tile(64, 128, 4), Tile(32, 512, 8, 2))
# 32 or 64 rows leave fewer registers, and less shared memory: 64 KiB on some hardware.
_TALL_WIDE = (Tile(32, 64, 4), Tile(64, 64, 4), Tile(32, 128, 4, 2))
_EXACT = (Tile(16, 64, 4, 2),)  # float32 has no room to spare
_TALL_INT4 = (Tile(32, 64, 4, 2), Tile(16, 128, 4, 2))


def candidates(kind: ProductKind) -> Sequence[Tile]:
    """Return the tiles to try, each cut to the matrix; the first is a fair choice anywhere."""
    found: Sequence[Tile]
    if kind.block_m == 1:
        found = _MATVEC_WIDE if kind.group_size is None else _MATVEC_INT4
    elif kind.dtype == torch.float32:
        found = _EXACT
    elif kind.block_m == 16:
        found = _SKINNY_WIDE if kind.group_size is None else _SKINNY_INT4
    else:
        found = _TALL_WIDE if kind.group_size is None else _TALL_INT4
    # A dot wants 16 of each of its sizes, and an int4 tile holds half its columns in each of two.
    least = max(32, kind.group_size or 0)
    widest = max(least, 1 << (kind.columns - 1).bit_length())
    cut = [Tile(tile.block_n, max(least, min(tile.block_k, widest)), tile.warps, tile.stages) for tile in found]
    return list(dict.fromkeys(cut))


def fastest(
    tiles: Sequence[Tile],
    run: Callable[[Tile], None],
    misfits: tuple[type[Exception], ...],
    time_ms: TimeMs | None = None,
) -> Tile:
    """Return the tile with which `run` takes the least time; it compiles at its first call.

    A tile that does not fit the hardware, which `misfits` tell, is passed over, unless none fits: then that is raised.
    `time_ms` times a run, by the current CUDA device's own clock if not given.
    """
    time_ms = time_ms or _time_ms
    times_ms: dict[Tile, float] = {}
    refused: Exception | None = None
    for tile in tiles:
        try:
            run(tile)
        except misfits as error:
            refused = error
            continue
        times_ms[tile] = min(time_ms(run, tile) for _ in range(_REPEATS))
    if not times_ms:
        assert refused is not None, "no tiles to try"
        raise refused
    return min(times_ms, key=lambda tile: times_ms[tile])


def _time_ms(run: Callable[[Tile], None], tile: Tile) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    run(tile)
    end.record()
    end.synchronize()
    elapsed_ms: float = start.elapsed_time(end)
    return elapsed_ms
