"""What the way from the client to the engine and back costs, beside the engine's own step, at batch 1."""

import os
from math import inf
from statistics import mean, median

import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate
from tests.support.cluster import Cluster

pytestmark = pytest.mark.alone

ATTEMPTS = 8
NUM_TOKENS = 96
MOST_MS = 1.5
# Beside a large model the wake-ups between steps find cold caches and cores that others use: the strict bar is for a
# quiet machine, where TANDEM_QUIET_MACHINE=1 asks for it; elsewhere only a gross mistake fails.
MOST_MS_BESIDE_OTHERS = 5.0
QUIET = os.environ.get("TANDEM_QUIET_MACHINE") == "1"


def test_with_a_tiny_model(tiny_cluster: Cluster) -> None:
    assert best_overhead_ms(tiny_cluster) <= MOST_MS


def test_with_the_embedded_model(smollm_cluster: Cluster) -> None:
    assert best_overhead_ms(smollm_cluster) <= (MOST_MS if QUIET else MOST_MS_BESIDE_OTHERS)


def best_overhead_ms(cluster: Cluster) -> float:
    """Return the best of a few attempts, for the machine may not be quiet."""
    best_ms = inf
    for _ in range(ATTEMPTS):
        best_ms = min(best_ms, overhead_ms(cluster))
        if best_ms <= MOST_MS:
            break
    return best_ms


def overhead_ms(cluster: Cluster) -> float:
    """Return how much longer a token takes the client than the rank's own step takes, means in ms; print where."""
    # A prompt of one token, so that the first step is like all others: only sums over all steps are told.
    prompt = pb.TokenIds(ids=[42])
    stops = pb.StoppingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    answer = generate(cluster.stub, pb.GenerateRequest(token_ids=prompt, stopping=stops))
    timings = answer.finished.timings
    assert timings.steps == NUM_TOKENS
    (rank,) = timings.ranks

    def per_step_ms(total_ns: int) -> float:
        return total_ns / timings.steps * 1e-6

    client_ms = mean(answer.gaps_s) * 1e3
    engine_ms = per_step_ms(rank.compute_ns + rank.collective_ns + rank.encode_ns)
    gateway_ms = per_step_ms(timings.hops.plan_ns + timings.hops.round_trip_ns + timings.hops.decide_ns)
    print(
        f"\nper token: client {client_ms:.3f} ms (median {median(answer.gaps_s) * 1e3:.3f}) = "
        f"engine {engine_ms:.3f} + {client_ms - engine_ms:.3f}: rank's queue {per_step_ms(rank.queue_ns):.3f}, "
        f"wire to the rank {per_step_ms(timings.hops.wire_ns):.3f}, plan {per_step_ms(timings.hops.plan_ns):.3f}, "
        f"decide {per_step_ms(timings.hops.decide_ns):.3f}, the rest {client_ms - gateway_ms:.3f}"
    )
    return client_ms - engine_ms
