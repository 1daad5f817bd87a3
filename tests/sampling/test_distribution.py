"""The whole chain draws from the distribution it should, and the test notices when it does not.

Each case draws N = 200,000 tokens (one sequence, positions as the counter) from a vocabulary of 32, cut into
one or two slices, through records, wire bytes, merging and choosing, with lists so short that some draws need
whole slices. Gates, at fixed seeds: a chi-square test against the explicit distribution at alpha = 1e-6,
which sees a total variation distance of 0.012 with power 0.999 (32 cells, mass shifted alternately over equal
cells; see test_the_stated_power), and equality of every token with the explicit draw of the same noise.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from gateway.sampling import candidates
from gateway.sampling.lists import VocabularySlice
from gateway.sampling.params import SamplingParams
from shard_worker.sampling import records
from shard_worker.sampling.noise import gumbel_noise
from tests.sampling.chain import Array, explicit_draws, explicit_kept, explicit_probabilities, run_step

SIZE = 32
DRAWS = 200_000
BROKEN_DRAWS = 40_000  # the broken chains are far off
CHUNK = 20_000
ALPHA = 1e-6
ONE = [VocabularySlice(0, SIZE)]
TWO = [VocabularySlice(0, 13), VocabularySlice(13, SIZE - 13)]
RAW = torch.randn(SIZE, generator=torch.Generator().manual_seed(3)) * 1.5

CASES = {
    "temperature": SamplingParams(temperature=1.25, seed=11),
    "top_k": SamplingParams(temperature=1.25, top_k=9, seed=12),
    "top_p": SamplingParams(temperature=1.25, top_p=0.8, seed=13),
    "min_p": SamplingParams(temperature=1.25, min_p=0.15, seed=14),
    "top_k and top_p": SamplingParams(temperature=1.5, top_k=12, top_p=0.7, seed=15),
    "all": SamplingParams(temperature=2.0, top_k=20, top_p=0.9, min_p=0.1, seed=16),
}


def draw(
    params: SamplingParams,
    slices: list[VocabularySlice],
    num_draws: int = DRAWS,
    raw_rank_V: torch.Tensor = RAW,
    rank_1_offset: int = 0,
) -> tuple[Array, int]:
    """Return the tokens drawn at positions 0 .. num_draws - 1, and how many needed whole slices.

    raw_rank_V and rank_1_offset let a test break the chain.
    """
    tokens, left_open = [], 0
    for start in range(0, num_draws, CHUNK):
        positions = list(range(start, min(start + CHUNK, num_draws)))
        lengths = (5, 14, 0) if params.is_truncated else (1, 0, 0)

        def positions_of(rank: int, positions: list[int] = positions) -> list[int]:
            return [position + rank * rank_1_offset for position in positions]

        step = run_step(raw_rank_V.expand(len(positions), SIZE), params, slices, positions, lengths, positions_of)
        for row in range(len(positions)):
            choice, decided = step.draw(row, params)
            tokens.append(choice.token_id)
            left_open += not decided
    return np.array(tokens), left_open


def check_distribution(tokens: Array, params: SamplingParams) -> None:
    """Chi-square against the explicit distribution; cells that expect fewer than 10 are pooled."""
    expected = explicit_probabilities(RAW.numpy(), params) * len(tokens)
    counts = np.bincount(tokens, minlength=SIZE)
    assert not counts[expected == 0].any(), "tokens outside of the kept set were drawn"
    rare = (expected < 10) & (expected > 0)
    counts = np.append(counts[expected >= 10], counts[rare].sum())
    expected = np.append(expected[expected >= 10], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert stats.chisquare(counts, expected).pvalue > ALPHA, "the distribution is wrong"


def check_tokens(tokens: Array, params: SamplingParams) -> None:
    """Every token equals the explicit draw of the same noise."""
    expected = explicit_draws(RAW.expand(len(tokens), SIZE), params, list(range(len(tokens))))
    assert np.array_equal(tokens, expected), "a draw differs from the explicit one"


@pytest.mark.parametrize("slices", [ONE, TWO], ids=["1 slice", "2 slices"])
@pytest.mark.parametrize("case", CASES)
def test_the_chain_is_exact(case: str, slices: list[VocabularySlice]) -> None:
    """N = 200,000; detects a total variation distance of 0.012."""
    tokens, left_open = draw(CASES[case], slices)
    check_distribution(tokens, CASES[case])
    check_tokens(tokens, CASES[case])
    assert left_open < DRAWS / 2
    if "top_p" in case and slices is ONE:
        assert left_open > 0, "the fallback was not exercised"


@pytest.mark.parametrize("seeds", [(21, 21), (21, 22)], ids=["consecutive positions", "seeds s and s + 1"])
def test_draws_are_independent(seeds: tuple[int, int]) -> None:
    """Pair table of the 8 most likely tokens and the rest, 100,000 pairs, 81 cells."""
    params = [SamplingParams(temperature=1.25, seed=seed) for seed in seeds]
    if seeds[0] == seeds[1]:
        tokens, _ = draw(params[0], TWO)
        first, second = tokens[0::2], tokens[1::2]
    else:
        first, second = (draw(one, TWO, num_draws=100_000)[0] for one in params)
    probabilities = explicit_probabilities(RAW.numpy(), params[0])
    cell_of = np.full(SIZE, 8)
    cell_of[np.argsort(-probabilities)[:8]] = np.arange(8)
    marginal = np.bincount(cell_of, probabilities, minlength=9)
    counts = np.bincount(cell_of[first] * 9 + cell_of[second], minlength=81)
    assert stats.chisquare(counts, np.outer(marginal, marginal).ravel() * len(first)).pvalue > ALPHA


def test_the_stated_power() -> None:
    """N = 200,000, 32 cells, alpha 1e-6: a total variation distance of 0.012 is seen with power 0.999.

    Shifting mass d between equal cells in turn makes chi-square's noncentrality N * (2 d)^2.
    """
    threshold = stats.chi2.isf(ALPHA, SIZE - 1)
    assert stats.ncx2.sf(threshold, SIZE - 1, DRAWS * (2 * 0.012) ** 2) >= 0.999


def broken_local_id(monkeypatch: pytest.MonkeyPatch, params: SamplingParams) -> Array:
    """Noise keyed by the id within the slice: ranks share their noise."""
    monkeypatch.setattr(
        records,
        "gumbel_noise",
        lambda seeds, positions, first_id, size, device: gumbel_noise(seeds, positions, 0, size, device),
    )
    return draw(params, TWO, BROKEN_DRAWS)[0]


def broken_missing_lse(monkeypatch: pytest.MonkeyPatch, params: SamplingParams) -> Array:
    """The second rank's log-sum-exp is left out of the total."""
    monkeypatch.setattr(candidates, "combine_lse", lambda lses: lses[0].astype(np.float64))
    return draw(params, TWO, BROKEN_DRAWS)[0]


def broken_top_p_per_slice(monkeypatch: pytest.MonkeyPatch, params: SamplingParams) -> Array:
    """Each rank applies top_p to its own slice."""
    kept = np.concatenate(
        [
            explicit_kept(RAW[None, owner.first_id : owner.first_id + owner.size].numpy() / params.temperature, params)
            for owner in TWO
        ],
        axis=1,
    )
    masked = RAW.where(torch.from_numpy(kept[0]), -1e9)
    return draw(SamplingParams(temperature=params.temperature, seed=params.seed), TWO, BROKEN_DRAWS, masked)[0]


@pytest.mark.parametrize(
    ("case", "broken"),
    [
        ("temperature", broken_local_id),
        ("top_p", broken_local_id),
        ("top_p", broken_missing_lse),
        ("top_p", broken_top_p_per_slice),
    ],
)
def test_teeth(
    case: str, broken: Callable[[pytest.MonkeyPatch, SamplingParams], Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both gates of test_the_chain_is_exact reject the broken chain."""
    tokens = broken(monkeypatch, CASES[case])
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        check_distribution(tokens, CASES[case])
    with pytest.raises(AssertionError):
        check_tokens(tokens, CASES[case])


def test_teeth_position_off_by_one_between_ranks() -> None:
    """Each (rank, position) noise is still used once, so the draws keep their distribution: no statistic can
    see this one. Equality with the explicit draw does, at once.
    """
    tokens, _ = draw(CASES["temperature"], TWO, num_draws=CHUNK, rank_1_offset=1)
    with pytest.raises(AssertionError):
        check_tokens(tokens, CASES["temperature"])
