import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from gateway.scheduling.prefill_pacer import MIN_CHUNK_TOKENS, REFRESH_STEPS, START_TOKENS, PrefillPacer


def run(pacer: PrefillPacer, duration_s: Callable[[int, int], float], steps: int, decode_rows: int = 8) -> list[int]:
    """Take `steps` steps that prefill all they may, every 8th without prefill; return the allowances."""
    allowances = []
    for step in range(steps):
        tokens = 0 if step % 8 == 0 else pacer.allowance(decode_rows)
        pacer.observe(decode_rows, tokens, duration_s(decode_rows, tokens))
        if tokens:
            allowances.append(tokens)
    return allowances


def test_nothing_slows_down_when_nothing_decodes() -> None:
    assert PrefillPacer(2.0, 512).allowance(decode_rows=0) == 512


def test_before_observations_the_allowance_is_small_and_fixed() -> None:
    assert PrefillPacer(2.0, 512).allowance(1) == START_TOKENS
    assert PrefillPacer(2.0, 40).allowance(1) == 40


@pytest.mark.parametrize(("limit", "tokens"), [(2.0, 100), (3.0, 200), (1.5, 50)])
def test_a_linear_machine_is_paced_exactly(limit: float, tokens: int) -> None:
    pacer = PrefillPacer(limit, 512)
    allowances = run(pacer, lambda rows, tokens: 0.01 + 0.0001 * tokens, 40)
    assert abs(allowances[-1] - tokens) <= 2
    assert pacer.base_s(8) == pytest.approx(0.01) and pacer.cost_s == pytest.approx(0.0001)


def test_a_machine_with_spare_width_is_paced_to_the_limit() -> None:
    """Up to 200 tokens are free, then cost begins: the fixed point is where a step takes twice its base."""
    pacer = PrefillPacer(2.0, 2048)
    allowances = run(pacer, lambda rows, tokens: 0.01 + 0.00005 * max(0, tokens - 200), 200)
    assert 380 <= allowances[-1] <= 420


def test_the_allowance_at_most_doubles_what_was_tried() -> None:
    allowances = run(PrefillPacer(2.0, 4096), lambda rows, tokens: 0.01, 60)
    assert all(later <= 2 * earlier for earlier, later in pairwise(allowances))
    assert allowances[-1] == 4096


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_outliers_are_survived(seed: int) -> None:
    dice = random.Random(seed)

    def duration_s(rows: int, tokens: int) -> float:
        outlier = 30.0 if dice.random() < 0.02 else 1.0
        return (0.01 + 0.0001 * tokens) * dice.uniform(0.85, 1.15) * outlier

    settled = run(PrefillPacer(2.0, 512), duration_s, 600)[100:]
    assert 60 <= sorted(settled)[len(settled) // 2] <= 140
    assert sum(tokens > 200 for tokens in settled) < len(settled) * 0.05


def test_a_slow_first_step_is_soon_forgotten() -> None:
    pacer = PrefillPacer(2.0, 512)
    pacer.observe(0, 20, 10.0)
    pacer.observe(1, 0, 3.0)
    assert 90 <= run(pacer, lambda rows, tokens: 0.01 + 0.0001 * tokens, 40)[-1] <= 110


def test_it_follows_a_machine_that_changes() -> None:
    pacer = PrefillPacer(2.0, 512)
    run(pacer, lambda rows, tokens: 0.01 + 0.0001 * tokens, 40)
    assert 20 <= run(pacer, lambda rows, tokens: 0.01 + 0.0004 * tokens, 80)[-1] <= 30
    assert 95 <= run(pacer, lambda rows, tokens: 0.04 + 0.0004 * tokens, 400)[-1] <= 105


def test_a_limit_of_one_takes_the_smallest_chunk() -> None:
    assert set(run(PrefillPacer(1.0, 512), lambda rows, tokens: 0.01, 40)) == {MIN_CHUNK_TOKENS}


def test_prefill_always_moves_on() -> None:
    allowances = run(PrefillPacer(2.0, 512), lambda rows, tokens: 0.001 + 1.0 * tokens, 60)
    assert allowances[-1] == MIN_CHUNK_TOKENS == min(allowances)


def test_under_constant_prefill_the_base_is_still_refreshed() -> None:
    pacer = PrefillPacer(2.0, 512)
    sizes = []
    for _ in range(400):
        sizes.append(pacer.allowance(8))
        pacer.observe(8, sizes[-1], 0.01 + 0.0001 * sizes[-1])
    assert sizes.count(MIN_CHUNK_TOKENS) == 400 // (REFRESH_STEPS + 1)
    assert 80 <= sizes[-1] <= 120


def test_row_counts_are_told_apart_and_unknown_ones_take_the_nearest() -> None:
    pacer = PrefillPacer(2.0, 512)
    for _ in range(8):
        pacer.observe(1, 0, 0.01)
        pacer.observe(32, 0, 0.04)
    assert pacer.base_s(1) == pytest.approx(0.01) and pacer.base_s(63) == pytest.approx(0.04)
    assert pacer.base_s(2) == pytest.approx(0.01) and pacer.base_s(500) == pytest.approx(0.04)


def test_the_same_observations_give_the_same_allowances() -> None:
    def observed() -> list[int]:
        dice = random.Random(7)
        return run(PrefillPacer(2.0, 512), lambda rows, tokens: dice.uniform(0.01, 0.03), 100)

    assert observed() == observed()
