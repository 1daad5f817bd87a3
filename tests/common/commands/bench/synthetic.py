"""Requests that never ran, with times that are easy to add up."""

from common.commands.bench.bandwidth import Bandwidth
from common.commands.bench.compare import Comparison
from common.commands.bench.hops import SingleStream
from common.commands.bench.load import ClosedLoop, OpenLoop
from common.commands.bench.results import Machine, Model, Results, waterfall
from common.commands.bench.statistics import LoadResult, load_result
from common.commands.bench.trace import Arrival, Trace
from tandem.v1 import inference_service_pb2 as pb

MS = 1_000_000


def make_trace(
    start_ms: int, arrivals: list[tuple[int, int]], end_ms: int, compute_ms: int = 0, steps: int = 0
) -> Trace:
    """Return a request whose messages came at (ms, tokens), with one rank that computed for `compute_ms`."""
    tokens = sum(count for _, count in arrivals)
    timings = pb.Timings(
        prefill_ns=3 * MS,
        decode_ns=10 * MS,
        steps=steps,
        hops=pb.StepTimings(plan_ns=2 * MS, wire_ns=4 * MS, decide_ns=6 * MS),
        ranks=[pb.RankTimings(compute_ns=compute_ms * MS, collective_ns=MS, queue_ns=MS), pb.RankTimings()],
    )
    return Trace(
        start_ms * MS,
        end_ms * MS,
        tuple(Arrival(time_ms * MS, count) for time_ms, count in arrivals),
        pb.GenerateFinished(usage=pb.Usage(prompt_tokens=8, completion_tokens=tokens), timings=timings),
    )


def make_results() -> Results:
    """Return a run with three loads and everything measured."""
    one = make_trace(0, [(10, 1), (20, 1), (30, 2)], 40, compute_ms=20, steps=4)
    loads = [
        load_result(ClosedLoop(1), [one]),
        load_result(ClosedLoop(4), [one, make_trace(5, [(20, 1), (50, 4)], 60, steps=5)]),
        load_result(OpenLoop(2.5), [make_trace(0, [(15, 1), (35, 1)], 50, steps=2)]),
    ]
    return Results(
        taken_at="2026-01-02T03:04:05+00:00",
        model=Model("a<b & c", "0" * 64, "bfloat16", "none", 2),
        machine=Machine("A Processor", 2, "Linux x86_64", "3.11.0"),
        work={"prompt_tokens": "8", "output_tokens": "4", "temperature": "0", "arrival_seed": "0"},
        loads=tuple(load for load in loads if isinstance(load, LoadResult)),
        single_stream=SingleStream(engine_tokens_per_s=200.0, grpc_tokens_per_s=150.0, steps_per_token=1.0),
        waterfall=waterfall(one),
        weight_bytes_per_step=100_000_000,
        bandwidth=Bandwidth({1: 18.0, 2: 30.0}),
        peak_gb_per_s=30.0,
        peak_resident_bytes={"rank 0": 512 << 20, "gateway": 64 << 20},
        comparison=Comparison("other program", "decode", (10.0, 12.0, 30.0), (5.0, 4.0, 10.0)),
    )
