"""The circuit breaker: how many misses open it, when it probes, and what closes it."""

import pytest

from gateway.speculation.breaker import MAX_MISSES, MAX_OPEN_NS, MIN_OPEN_NS, REVIVED_OPEN_NS, WINDOW_ASKS, Breaker


def asked(breaker: Breaker, hit: bool, at_ns: int) -> None:
    """Make an ask that is answered or missed a nanosecond later."""
    assert breaker.allows(at_ns)
    breaker.ask(at_ns)
    breaker.record(hit, at_ns, at_ns + 1)


def opened(at_ns: int = 100) -> Breaker:
    """Return a breaker that opened at this time."""
    breaker = Breaker()
    for n in range(MAX_MISSES):
        asked(breaker, False, at_ns - 1 - MAX_MISSES + 1 + n)
    return breaker


def test_it_opens_at_five_misses_among_twenty() -> None:
    breaker = Breaker()
    for n in range(100):  # four misses in any twenty
        asked(breaker, n % WINDOW_ASKS >= MAX_MISSES - 1, n)
    assert not breaker.is_open
    for n in range(MAX_MISSES - 1):
        asked(breaker, False, 100 + n)
        assert not breaker.is_open
    asked(breaker, False, 110)
    assert breaker.is_open and not breaker.allows(111)


def test_one_probe_closes_it() -> None:
    breaker = opened(100)
    assert not breaker.allows(99 + MIN_OPEN_NS)
    probe_ns = 100 + MIN_OPEN_NS
    assert breaker.allows(probe_ns)
    breaker.ask(probe_ns)
    assert not breaker.allows(probe_ns + 1)
    breaker.record(True, 50, probe_ns + 1)  # an ask of before it opened
    assert breaker.is_open
    breaker.record(True, probe_ns, probe_ns + 2)
    assert not breaker.is_open and breaker.allows(probe_ns + 3)
    for n in range(MAX_MISSES - 1):  # what was before is forgotten
        asked(breaker, False, probe_ns + 10 + n)
    assert not breaker.is_open


def test_failed_probes_double_the_time_up_to_a_bound() -> None:
    breaker, now_ns, open_ns = opened(100), 100, MIN_OPEN_NS
    for _ in range(6):
        assert not breaker.allows(now_ns + open_ns - 1)
        now_ns += open_ns
        asked(breaker, False, now_ns)
        now_ns, open_ns = now_ns + 1, min(2 * open_ns, MAX_OPEN_NS)
    assert open_ns == MAX_OPEN_NS
    asked(breaker, True, now_ns + open_ns)
    assert not breaker.is_open


def test_a_probe_of_unknown_fate_is_followed_by_another() -> None:
    breaker = opened(100)
    probe_ns = 100 + MIN_OPEN_NS
    breaker.ask(probe_ns)
    assert not breaker.allows(probe_ns + MIN_OPEN_NS - 1)
    assert breaker.allows(probe_ns + MIN_OPEN_NS)


@pytest.mark.parametrize("hit", [True, False])
def test_while_open_only_the_probe_counts(hit: bool) -> None:
    breaker = opened(100)
    for asked_ns in range(50, 90):
        breaker.record(hit, asked_ns, 200)
    assert breaker.is_open and breaker.allows(100 + MIN_OPEN_NS)


def test_a_worker_that_is_there_again_is_probed_soon() -> None:
    breaker = opened(100)
    for _ in range(4):
        probe_ns = 100 + 2 * MAX_OPEN_NS
        breaker.ask(probe_ns)
        breaker.record(False, probe_ns, probe_ns)
    back_ns = probe_ns + 1
    assert not breaker.allows(back_ns + MIN_OPEN_NS)
    breaker.revive(back_ns)
    assert not breaker.allows(back_ns)
    asked(breaker, False, back_ns + REVIVED_OPEN_NS)
    asked(breaker, True, back_ns + 3 * REVIVED_OPEN_NS + 1)
    assert not breaker.is_open


def test_nothing_revives_a_breaker_that_is_closed() -> None:
    breaker = Breaker()
    breaker.revive(1)
    assert not breaker.is_open and breaker.allows(1)
