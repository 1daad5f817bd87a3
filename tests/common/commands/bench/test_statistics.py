"""Percentiles and rates, exact on requests whose times are known."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from common.commands.bench.hops import mean_hops, single_stream
from common.commands.bench.load import ClosedLoop, OpenLoop
from common.commands.bench.statistics import Percentiles, load_result, percentiles
from common.commands.bench.trace import Failure, Trace, read_events
from tandem.v1 import inference_service_pb2 as pb
from tests.common.commands.bench.synthetic import make_trace

A = make_trace(0, [(100, 1), (110, 1), (130, 2), (160, 1)], 200, compute_ms=30, steps=5)
B = make_trace(100, [(150, 1), (250, 4)], 500, compute_ms=50, steps=2)


def test_percentiles_interpolate_between_neighbours() -> None:
    assert percentiles([float(n) for n in range(101)]) == Percentiles(50.0, 90.0, 99.0)
    assert percentiles([4.0, 2.0]) == Percentiles(3.0, pytest.approx(3.8), pytest.approx(3.98))  # type: ignore[arg-type]
    assert percentiles([7.0]) == Percentiles(7.0, 7.0, 7.0)
    assert percentiles([]) is None


def test_tokens_that_come_together_share_their_gap() -> None:
    assert A.inter_token_ns() == [10e6, 10e6, 10e6, 30e6]
    assert sum(A.inter_token_ns()) == A.decode_ns == 60e6
    assert (A.tokens, A.decoded_tokens, A.time_to_first_token_ns) == (5, 4, 100e6)


def test_rates_come_from_tokens_that_were_counted() -> None:
    result = load_result(ClosedLoop(2), [A, Failure("busy"), B, Failure("busy")])
    assert result is not None
    assert (result.load, result.loop, result.offered, result.requests) == ("2 streams", "closed", 2, 2)
    assert result.failures == {"busy": 2}
    assert (result.tokens, result.span_s) == (10, 0.5)
    assert result.tokens_per_s == pytest.approx(20.0)
    assert result.requests_per_s == pytest.approx(4.0)
    assert result.mean_streams == pytest.approx((0.2 + 0.4) / 0.5)
    assert result.time_to_first_token_ms.p50 == pytest.approx(75.0)
    # gpt-fast: new tokens over the whole request, mean over requests.
    assert result.whole_tokens_per_s == pytest.approx((5 / 0.2 + 5 / 0.4) / 2)
    assert result.prefill_tokens_per_s == pytest.approx(16 / 0.006)
    assert result.user_tokens_per_s is not None and result.inter_token_ms is not None
    assert result.user_tokens_per_s.p50 == pytest.approx((4 / 0.06 + 4 / 0.1) / 2)
    assert result.inter_token_ms.p50 == pytest.approx(25.0)  # 10 10 10 25 25 25 25 30


def test_answers_of_one_message_have_no_time_between_tokens() -> None:
    result = load_result(OpenLoop(0.5), [make_trace(0, [(10, 1)], 20)])
    assert result is not None
    assert result.inter_token_ms is None and result.user_tokens_per_s is None
    assert (result.load, result.loop, result.offered) == ("0.5/s", "open", 0.5)


def test_a_load_without_an_answer_has_no_result() -> None:
    assert load_result(ClosedLoop(1), [Failure("gone")]) is None


def test_hops_are_those_of_the_mean_step() -> None:
    hops = mean_hops([A.finished.timings, B.finished.timings])
    assert hops.steps == 3.5
    assert hops.wall_ms == pytest.approx(26 / 7)
    assert hops.plan_ms == pytest.approx(4 / 7)
    assert hops.wire_ms == pytest.approx(8 / 7)
    assert hops.decide_ms == pytest.approx(12 / 7)
    assert hops.compute_ms == pytest.approx(80 / 7)  # of the slower rank
    assert hops.queue_ms == pytest.approx(2 / 7)
    assert hops.collective_ms == pytest.approx(2 / 7)


def test_the_engine_alone_is_what_ranks_took_beyond_the_prefill() -> None:
    prefill = [make_trace(0, [(10, 1)], 20, compute_ms=n, steps=1) for n in (9, 4, 90)]
    single = single_stream([A, A], prefill)
    assert single is not None
    # Each of A's requests took the ranks 31 ms, of which the median prefill is 10 ms.
    assert single.engine_tokens_per_s == pytest.approx(8 / 0.042)
    assert single.grpc_tokens_per_s == pytest.approx(8 / 0.120)
    assert single.grpc_share == pytest.approx(0.35)
    assert single.steps_per_token == 1.0


def test_without_times_of_ranks_nothing_is_said_of_the_engine() -> None:
    assert single_stream([A], []) is None
    assert single_stream([], [A]) is None
    assert single_stream([A], [make_trace(0, [(1, 1)], 2, compute_ms=500)]) is None


def test_a_stream_is_read_to_its_end() -> None:
    async def events(*, whole: bool) -> AsyncIterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(started=pb.GenerateStarted())
        yield pb.GenerateResponse(delta=pb.GenerateDelta(token_ids=[1]))
        yield pb.GenerateResponse(delta=pb.GenerateDelta(text="held back"))
        yield pb.GenerateResponse(delta=pb.GenerateDelta(token_ids=[2, 3]))
        if whole:
            yield pb.GenerateResponse(finished=pb.GenerateFinished(reason=pb.FINISH_REASON_LENGTH))

    read = asyncio.run(read_events(events(whole=True), due_ns=0))
    assert isinstance(read, Trace)
    assert [arrival.tokens for arrival in read.arrivals] == [1, 2]
    assert 0 < read.arrivals[0].time_ns <= read.arrivals[1].time_ns <= read.end_ns
    assert isinstance(asyncio.run(read_events(events(whole=False), due_ns=0)), Failure)
