"""A request's waterfall: sums over steps, spans between moments."""

from gateway.waterfall import RankTimes, StepTimes, Waterfall


def test_wire_is_what_the_slowest_rank_does_not_explain() -> None:
    ranks = (RankTimes(1, 20, 3, 4), RankTimes(2, 30, 0, 5))
    assert StepTimes(plan_ns=1, round_trip_ns=50, ranks=ranks).wire_ns == 50 - 37
    # Clocks of two processes are never compared, so rounding may leave less than nothing.
    assert StepTimes(plan_ns=1, round_trip_ns=36, ranks=ranks).wire_ns == 0


def test_what_was_run_ahead_is_work_but_no_part_of_the_round_trip() -> None:
    times = StepTimes(plan_ns=1, round_trip_ns=50, ranks=(RankTimes(1, 200, 3, 4, 180), RankTimes(2, 30, 0, 5)))
    assert (times.wire_ns, times.work_ns) == (50 - 37, 208)


def test_steps_add_up_per_rank() -> None:
    waterfall = Waterfall()
    for factor in (1, 2):
        ranks = tuple(RankTimes(*(factor * value for value in values)) for values in ((1, 20, 3, 4), (2, 30, 1, 5)))
        waterfall.add_step(
            StepTimes(plan_ns=7 * factor, round_trip_ns=50 * factor, ranks=ranks), 9 * factor, 5 - 2 * factor
        )
    timings = waterfall.timings()
    assert (timings.steps, timings.frames) == (4, 2)
    hops = timings.hops
    assert (hops.plan_ns, hops.round_trip_ns, hops.wire_ns, hops.decide_ns) == (21, 150, 36, 27)
    assert [(r.queue_ns, r.compute_ns, r.collective_ns, r.encode_ns) for r in timings.ranks] == [
        (3, 60, 9, 12),
        (6, 90, 3, 15),
    ]


def test_spans() -> None:
    waterfall = Waterfall(arrived_ns=100, tokenize_ns=5, admitted_ns=110)
    waterfall.begin_step(130)
    waterfall.begin_step(140)
    waterfall.token(170)
    waterfall.token(200)
    waterfall.token(260)
    timings = waterfall.timings()
    assert (timings.tokenize_ns, timings.queue_ns, timings.prefill_ns, timings.decode_ns) == (5, 20, 40, 90)
    assert timings.time_to_first_token_ns == 70
    assert timings.total_ns > 160


def test_what_was_not_reached_takes_no_time() -> None:
    waterfall = Waterfall(admitted_ns=0)
    timings = waterfall.timings()
    assert (timings.queue_ns, timings.prefill_ns, timings.decode_ns, timings.steps) == (0, 0, 0, 0)
    waterfall.admitted_ns = waterfall.arrived_ns
    assert waterfall.timings().queue_ns == 0  # cancelled in the queue
