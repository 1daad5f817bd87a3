"""A waterfall as spans: phases that follow each other and take the whole time, however the request ended."""

from itertools import pairwise

import pytest

from common.telemetry.tracer import Hop
from gateway.hop_spans import Drafting, phases
from gateway.waterfall import RankTimes, StepTimes, Waterfall

ENDED_NS = 1_000


def waterfall(reached: int) -> Waterfall:
    """Return a request that got so far: tokenised, admitted, in a step, its first token, three more."""
    made = Waterfall(arrived_ns=100)
    if reached >= 1:
        made.tokenize_ns = 20
    if reached >= 2:
        made.admitted_ns = 121
    if reached >= 3:
        made.begin_step(150)
    if reached >= 4:
        made.token(290)
        made.add_step(StepTimes(10, 100, (RankTimes(0, 90, 0, 0),)), 30)
    if reached >= 5:
        for now_ns in (500, 600, 700):
            made.token(now_ns)
            made.detokenize_ns += 5
            made.add_step(StepTimes(5, 60, (RankTimes(0, 50, 0, 0),)), 20)
    return made


def lasting(hops: list[Hop]) -> list[tuple[str, int]]:
    return [(hop.name, hop.end_ns - hop.start_ns) for hop in hops]


@pytest.mark.parametrize(
    ("reached", "names"),
    [
        (0, ["tokenize"]),
        (1, ["tokenize"]),
        (2, ["tokenize", "queue"]),
        (3, ["tokenize", "queue", "prefill"]),
        (4, ["tokenize", "queue", "prefill", "decode"]),
        (5, ["tokenize", "queue", "prefill", "decode"]),
    ],
)
def test_a_request_that_ended_early_ended_in_its_last_phase(reached: int, names: list[str]) -> None:
    hops = phases(waterfall(reached), ENDED_NS, False, Drafting())
    assert [hop.name for hop in hops] == names
    assert hops[0].start_ns == 100
    assert all(left.end_ns == right.start_ns for left, right in pairwise(hops))
    if reached != 1:  # refused between reading and admission, of which nothing is told
        assert hops[-1].end_ns == ENDED_NS


def test_one_that_finished_ends_with_its_delivery() -> None:
    hops = phases(waterfall(5), ENDED_NS, True, Drafting(wait_ns=100, rounds=2))
    expected = [("tokenize", 20), ("queue", 30), ("prefill", 140), ("decode", 410), ("deliver", 300)]
    assert lasting(hops) == expected
    prefill, decode = hops[2], hops[3]
    assert lasting(list(prefill.parts)) == [("plan", 10), ("forward", 100), ("decide", 30)]
    # 45 of the 60 ns of the gateway's own time; what its detokeniser took stands beside them.
    assert lasting(list(decode.parts)) == [
        ("propose", 100),
        ("plan", 15),
        ("verify", 180),
        ("decide", 45),
        ("detokenize", 15),
    ]
    assert decode.attributes["tandem.steps"] == 3


def test_parts_stay_within_their_phase_and_keep_their_sum() -> None:
    made = waterfall(5)
    made.hops.round_trip_ns += 10_000
    decode = phases(made, ENDED_NS, True, Drafting())[3]
    assert all(decode.start_ns <= part.start_ns <= part.end_ns <= decode.end_ns for part in decode.parts)
    (forward,) = [part for part in decode.parts if part.name == "forward"]
    assert forward.attributes["tandem.duration_ms"] == (10_000 + 180) / 1e6
