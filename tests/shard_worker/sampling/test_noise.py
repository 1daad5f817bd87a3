"""The noise is the stated function of (seed, position, id), and it is noise."""

from math import log, log1p

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from shard_worker.sampling.noise import gumbel_noise

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
ALPHA = 1e-6

# (seed, position, id, noise as float32 hex)
GOLDEN_VECTORS: list[tuple[int, int, int, str]] = [
    (0, 0, 0, "0x1.e6d1f8p+0"),
    (0, 0, 1, "-0x1.43e78ep+0"),
    (1, 0, 0, "-0x1.577108p-3"),
    (42, 7, 49151, "0x1.66a49ap+0"),
    (42, 8, 49151, "-0x1.5075cep+0"),
    ((1 << 64) - 1, 131071, 128255, "0x1.396874p-1"),
    (1 << 63, 1, 2, "-0x1.cd5d86p-3"),
]


def noise(seeds: list[int], positions: list[int], first_id: int, size: int) -> Tensor:
    signed = [seed - (1 << 64) if seed >> 63 else seed for seed in seeds]
    return gumbel_noise(torch.tensor(signed), torch.tensor(positions), first_id, size, "cpu")


def mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


def reference(seed: int, position: int, token_id: int) -> float:
    key = mix((seed + GOLDEN) & MASK)
    start = mix((key + (position + 1) * GOLDEN) & MASK)
    bits = mix((start + (token_id + 1) * GOLDEN) & MASK)
    return -log(-log1p(-((bits >> 12) + 0.5) * 2.0**-52))


def uniforms(noise_values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The u behind the noise: u = 1 - exp(-exp(-noise))."""
    return np.asarray(-np.expm1(-np.exp(-noise_values.double().numpy())))


@pytest.mark.parametrize(("seed", "position", "token_id", "expected"), GOLDEN_VECTORS)
def test_golden_vectors(seed: int, position: int, token_id: int, expected: str) -> None:
    assert noise([seed], [position], token_id, 1).item() == float.fromhex(expected)


def test_equals_the_scalar_reference() -> None:
    seeds = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 123456789]
    positions = [0, 1, 5, 77, 8191, 2**31]
    rows = noise(seeds, positions, 1000, 50)
    expected = [
        [reference(seed, position, 1000 + i) for i in range(50)]
        for seed, position in zip(seeds, positions, strict=True)
    ]
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=0)


@pytest.mark.parametrize("size", [1, 7, 64, 1000, 49_152])
def test_any_slice_is_bitwise_the_same(size: int) -> None:
    whole = noise([3, 4], [10, 11], 0, 49_152)
    for first_id in {0, 1, 13, (49_152 - size) // 2, 49_152 - size}:
        if first_id + size <= 49_152:
            assert torch.equal(noise([3, 4], [10, 11], first_id, size), whole[:, first_id : first_id + size])


def test_rows_do_not_depend_on_their_company() -> None:
    seeds, positions = list(range(100)), [p * p for p in range(100)]
    rows = noise(seeds, positions, 0, 3000)
    assert torch.equal(noise(seeds[::-1], positions[::-1], 0, 3000).flip(0), rows)
    assert torch.equal(noise(seeds[41:42], positions[41:42], 0, 3000)[0], rows[41])


def test_streams_differ() -> None:
    seeds, positions = torch.tensor([5]), torch.tensor([6])
    other = gumbel_noise(seeds, positions, 0, 1000, "cpu", stream=1)
    assert not (other == gumbel_noise(seeds, positions, 0, 1000, "cpu")).any()


def test_small_u_keeps_its_digits() -> None:
    """With 32-bit u the noise of 4 million draws would repeat at the top; it must not."""
    values = noise(list(range(80)), [0] * 80, 0, 50_000).flatten()
    best = values.topk(1000).values
    assert best[0] > 13
    assert len(set(best.tolist())) > 990


def test_distribution_is_gumbel() -> None:
    values = noise(list(range(40)), [3] * 40, 0, 25_000).flatten()
    assert stats.kstest(values.double().numpy(), stats.gumbel_r.cdf).pvalue > ALPHA
    cells = np.bincount((uniforms(values) * 1024).astype(np.int64), minlength=1024)
    assert stats.chisquare(cells).pvalue > ALPHA


@pytest.mark.parametrize("step", ["id", "far id", "position", "seed", "seed bit 63"])
def test_neighbours_are_independent(step: str) -> None:
    """Pair tables of 32 x 32 cells over 500,000 pairs."""
    seeds, positions = list(range(100, 110)), list(range(10))
    first = noise(seeds, positions, 0, 50_000)
    second = {
        "id": lambda: noise(seeds, positions, 1, 50_000),
        "far id": lambda: noise(seeds, positions, 65_536, 50_000),
        "position": lambda: noise(seeds, [p + 1 for p in positions], 0, 50_000),
        "seed": lambda: noise([s + 1 for s in seeds], positions, 0, 50_000),
        "seed bit 63": lambda: noise([s + (1 << 63) for s in seeds], positions, 0, 50_000),
    }[step]()
    cells = (uniforms(first) * 32).astype(np.int64) * 32 + (uniforms(second) * 32).astype(np.int64)
    assert stats.chisquare(np.bincount(cells.ravel(), minlength=1024)).pvalue > ALPHA
    assert abs(np.corrcoef(first.flatten().numpy(), second.flatten().numpy())[0, 1]) < 0.01


def test_no_row_comes_twice() -> None:
    seeds = [s for s in range(200) for _ in range(200)]
    positions = [p for _ in range(200) for p in range(200)]
    rows = noise(seeds, positions, 0, 2)
    assert len(set(map(tuple, rows.tolist()))) == len(rows)


def test_winners_are_uniform_over_ids() -> None:
    """Which of 64 equal tokens wins, over 100,000 positions."""
    winners = noise([9] * 100_000, list(range(100_000)), 0, 64).argmax(dim=1).numpy()
    assert stats.chisquare(np.bincount(winners, minlength=64)).pvalue > ALPHA
