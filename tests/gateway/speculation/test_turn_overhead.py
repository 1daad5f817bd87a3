"""What turns take beyond their passes, as it is learned."""

import pytest

from gateway.speculation.turn_overhead import TurnOverhead

PASS_S = 0.010


def learned(*turns: tuple[bool, float, int], times: int = 100) -> TurnOverhead:
    """Return what turns of (is_resting, turn_s, passes) teach."""
    overhead = TurnOverhead()
    for _ in range(times):
        for is_resting, turn_s, passes in turns:
            overhead.observe(is_resting, turn_s, passes, PASS_S)
    return overhead


def test_it_is_what_a_pass_takes_more_or_less_than_expected() -> None:
    overhead = learned((False, 0.012, 1), (True, 8 * 0.0095, 8))
    assert overhead.drafting_s == pytest.approx(0.002, 1e-3) and overhead.resting_s == pytest.approx(-0.0005, 1e-3)


def test_a_turn_that_took_forever_counts_as_half_a_pass() -> None:
    overhead = learned((False, 30.0, 1), times=1)
    assert overhead.drafting_s == pytest.approx(0.1 * PASS_S / 2)


def test_rest_is_forgiven_while_nobody_rests_and_never_praised() -> None:
    overhead = learned((True, 0.014, 1))
    for _ in range(400):
        overhead.observe(False, 0.010, 1, PASS_S)
    assert 0 < overhead.resting_s < 0.0001
    overhead = learned((True, 0.009, 1))
    for _ in range(400):
        overhead.observe(False, 0.010, 1, PASS_S)
    assert overhead.resting_s == pytest.approx(-0.001, 1e-3)
