"""Tiles are cut to their matrices, and the fastest that fits the hardware is taken."""

import pytest
import torch

from shard_worker.gpu.tiles import ProductKind, Tile, candidates, fastest


@pytest.mark.parametrize(
    ("dtype", "group_size"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.int8, None), (torch.uint8, 8), (torch.uint8, 256)],
)
@pytest.mark.parametrize("block_m", [1, 16, 64])
@pytest.mark.parametrize("columns", [61, 4096])
def test_tiles_fit_their_matrices(dtype: torch.dtype, group_size: int | None, block_m: int, columns: int) -> None:
    tiles = candidates(ProductKind(64, columns, dtype, group_size, False, block_m))
    assert len(set(tiles)) == len(tiles) >= 1
    for tile in tiles:
        assert tile.block_k % (group_size or 1) == 0 and tile.block_k < 2 * max(columns, group_size or 1, 32)
        # A dot wants 16 of each size; of an int4 tile it sees half the columns at a time.
        assert block_m == 1 or (tile.block_n >= 16 and tile.block_k >= 32)


def test_the_fastest_that_fits_is_taken() -> None:
    tiles = [Tile(1, 32, 4), Tile(2, 32, 4), Tile(3, 32, 4)]
    times_ms = {tiles[1]: [3.0, 1.0, 2.0], tiles[2]: [1.5, 1.5, 1.5]}

    def run(tile: Tile) -> None:
        if tile == tiles[0]:
            raise RuntimeError("too large")

    assert fastest(tiles, run, (RuntimeError,), lambda run, tile: times_ms[tile].pop()) == tiles[1]
    with pytest.raises(RuntimeError, match="too large"):
        fastest(tiles[:1], run, (RuntimeError,), lambda run, tile: 0.0)
    with pytest.raises(RuntimeError, match="too large"):
        fastest(tiles, run, (MemoryError,), lambda run, tile: 0.0)
