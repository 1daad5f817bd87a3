"""What a step and a request enter: phases, ranks' parts, preemptions, first tokens and the gaps after them."""

from typing import Any

import pytest

from common.telemetry.metrics import Histogram, Metrics
from gateway.generation import Generation
from gateway.metrics.request_metrics import RequestMetrics
from gateway.metrics.step_metrics import StepMetrics
from gateway.scheduling.plan import Row, StepPlan, make_row
from gateway.scheduling.sequence import Sequence
from gateway.stopping import StopRules
from gateway.waterfall import RankTimes, StepTimes, Waterfall

MS = 1_000_000
TIMES = StepTimes(1 * MS, 10 * MS, (RankTimes(1 * MS, 4 * MS, 2 * MS, 1 * MS), RankTimes(0, 6 * MS, 0, 1 * MS, 3 * MS)))


def plan_of(rows: tuple[Row, ...], prefill_tokens: int = 0, preempted: int = 0) -> StepPlan:
    ids = sum(len(row.token_ids) for row in rows)
    return StepPlan(rows, (), (), ids - prefill_tokens, prefill_tokens, preempted)


def numbers(metrics: Metrics) -> dict[str, float]:
    """Return every number by name and labels; of a histogram its count."""
    return {
        "/".join((family.name.removeprefix("tandem."), *labels)): sum(s.counts) if isinstance(s, Histogram) else s.value
        for family in metrics.read()
        for labels, s in family.items()
    }


def generation(prompt: list[int]) -> Generation:
    sequence = Sequence(tenant="", prompt_ids=prompt, max_new_tokens=8)
    stop = StopRules(8, frozenset(), frozenset(), ())
    unused: Any = None  # parameters and text: nothing is drawn here
    return Generation(sequence, unused, stop, unused, Waterfall())


def test_a_step_is_of_the_phase_that_it_mainly_is() -> None:
    metrics = Metrics()
    steps = StepMetrics(metrics, RequestMetrics(metrics))
    sequence = generation([1, 2, 3, 4]).sequence
    prefill = make_row(sequence, 4)
    sequence.num_computed = 3
    decode = make_row(sequence, 1)
    sequence.draft_ids.extend([7, 8])
    verify = make_row(sequence, 1)
    steps.ran(plan_of((prefill, decode), prefill_tokens=4), (None, None), TIMES, MS)
    steps.ran(plan_of((decode,), preempted=2), (None,), TIMES, MS)
    steps.ran(plan_of((verify, decode)), (None, None), TIMES, MS)
    found = numbers(metrics)
    for phase in ("prefill", "decode", "verify"):
        assert found[f"step.duration/{phase}/0"] == found[f"step.duration/{phase}/1"] == 1
        assert found[f"step.round_trip/{phase}"] == 1
    assert found["preemptions"] == 2
    assert found["step.tokens"] == 3
    assert found["rank.time/0/compute"] == pytest.approx(0.012)
    assert found["rank.time/1/collective"] == 0
    assert found["gateway.time/plan"] == found["gateway.time/decide"] == pytest.approx(0.003)
    assert steps.decode_compute_s == pytest.approx(0.006)


def test_a_request_is_entered_once_and_its_tokens_as_they_come() -> None:
    metrics = Metrics()
    requests = RequestMetrics(metrics)
    steps = StepMetrics(metrics, requests)
    job = generation([1, 2, 3, 4])
    waterfall = job.waterfall
    waterfall.admitted_ns, waterfall.first_step_ns = waterfall.arrived_ns + MS, waterfall.arrived_ns + 3 * MS
    row = make_row(job.sequence, 4)

    def step(tokens: int, now_ms: int) -> None:
        job.completion_tokens += tokens
        for _ in range(tokens):
            waterfall.token(waterfall.arrived_ns + now_ms * MS)
        steps.ran(plan_of((row,)), (job,), TIMES, 0)
        waterfall.add_step(TIMES, 0)

    step(1, 20)
    step(3, 50)
    step(0, 0)
    requests.ended(job)
    found = numbers(metrics)
    assert found["prompt_tokens"] == found["prefix_cache.queried_tokens"] == 4
    assert found["request.queue_time"] == found["time_to_first_token"] == found["request.duration"] == 1
    assert found["generation_tokens"] == 4
    assert found["inter_token_latency"] == 3
    assert found["request.finished/cancelled"] == 1 and found["request.finished/length"] == 0
    gaps = next(family for family in metrics.read() if family.name == "tandem.inter_token_latency").of()
    assert isinstance(gaps, Histogram) and gaps.total == pytest.approx(0.03)
