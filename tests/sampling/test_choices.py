"""For every mix of parameters, the draw equals explicit truncation and the argmax of the same noise.

Wherever the records leave the draw open, whole slices decide it, to the same token.
"""

import numpy as np
import pytest
import torch

from gateway.sampling.params import SamplingParams
from tests.sampling.chain import cut, explicit_draws, run_step

ROWS = 8


def logits(kind: str, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(ROWS, size, generator=generator)
    match kind:
        case "peaked":
            return values * 8
        case "flat":
            return values * 0.05
        case "tied":
            return (values * 2).round()
        case "equal":
            return torch.zeros(ROWS, size)
        case "zipf":
            ranks = torch.stack([torch.randperm(size, generator=generator) for _ in range(ROWS)]) + 1
            return -1.6 * ranks.float().log() + 0.5 * values
        case _:
            return values * 3


def random_params(random: np.random.Generator, size: int) -> SamplingParams:
    def sometimes(value: float, otherwise: float) -> float:
        return float(np.float32(value)) if random.random() < 0.6 else otherwise

    return SamplingParams(
        temperature=float(np.float32(random.choice([0.1, 0.3, 0.7, 1.0, 1.5, 3.0]))),
        top_k=int(sometimes(int(random.integers(1, min(size, 100) + 2)), 0)),
        top_p=sometimes(random.choice([1e-6, 0.1, 0.5, 0.8, 0.9, 0.95, 0.99]), 1.0),
        min_p=sometimes(random.choice([0.001, 0.02, 0.1, 0.5, 1.0]), 0.0),
        seed=int(random.integers(0, 2**62)),
    )


@pytest.mark.parametrize("kind", ["ordinary", "peaked", "flat", "tied", "equal", "zipf"])
@pytest.mark.parametrize(("size", "repeats"), [(8, 40), (33, 40), (300, 30), (5000, 8), (50_000, 1)])
def test_draws_equal_the_explicit_ones(kind: str, size: int, repeats: int) -> None:
    """30 kinds and sizes, 5,712 draws in all; lists are short on purpose, so that many are left open."""
    random = np.random.default_rng([size, len(kind)])
    decided = 0
    for repeat in range(repeats):
        params = random_params(random, size)
        raw, positions = logits(kind, size, repeat), random.integers(0, 10_000, ROWS).tolist()
        expected = explicit_draws(raw, params, positions)
        slices = cut(size, int(random.choice([1, 2, 3, 5])), random)
        lengths = (int(random.integers(1, 9)), int(random.choice([1, 4, 16, 64])), 0)
        step = run_step(raw, params, slices, positions, lengths)
        for row in range(ROWS):
            choice, was_decided = step.draw(row, params)
            decided += was_decided
            assert choice.token_id == expected[row], (params, lengths, slices)
            assert choice.raw_logit == raw[row, choice.token_id]
            if repeat % 4 == 0:
                assert step.draw_from_whole(row, params) == choice
    assert decided > 0 or size == 50_000


@pytest.mark.parametrize(
    ("params", "most"),
    [
        (SamplingParams(temperature=0.7, top_p=0.9), 0.02),
        (SamplingParams(temperature=1.0, top_p=0.95), 0.08),
        (SamplingParams(temperature=0.8, top_p=0.95, top_k=40), 0.01),
        (SamplingParams(temperature=1.0, top_k=50), 0.01),
        (SamplingParams(temperature=1.0, min_p=0.05), 0.02),
    ],
)
def test_fallbacks_are_rare(params: SamplingParams, most: float) -> None:
    """256 contexts of 49,152 Zipf logits, exponents 1.1 to 2.9 (entropies of 0.1 to 4 nats), one rank."""
    size, contexts = 49_152, 256
    generator = torch.Generator().manual_seed(1)
    exponents = 1.1 + 1.8 * torch.rand(contexts, 1, generator=generator)
    left_open = 0
    lengths = (params.num_noised_wanted, params.num_top_wanted(), 0)
    for chunk in range(0, contexts, 64):
        raw = -exponents[chunk : chunk + 64] * torch.arange(1, size + 1).log()
        raw += 0.5 * torch.randn(64, size, generator=generator)
        positions = list(range(chunk, chunk + 64))
        step = run_step(raw, params, cut(size, 1, np.random.default_rng(0)), positions, lengths)
        left_open += sum(not step.draw(row, params)[1] for row in range(64))
    assert left_open / contexts <= most
