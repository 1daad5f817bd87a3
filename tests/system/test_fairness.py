"""Many streams together are faster than one after the other, and a long prompt does not hold the others up."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

import grpc
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import Answer, generate, generate_all, text_request
from tests.support.cluster import Cluster, running_cluster

pytestmark = pytest.mark.alone

ATTEMPTS = 3
NUM_STREAMS = 16
NUM_TOKENS = 24
LEAST_SPEED_UP = 3.0
ATTACKER_TOKENS = 1_500
MOST_SLOWDOWN = 3.0


@pytest.fixture(scope="module")
def served(embedded_model: Path) -> Iterator[Cluster]:
    """The embedded model as it is served by default: one rank on all cores, bfloat16."""
    with running_cluster(model=embedded_model, dtype="bfloat16", kv_cache_tokens=16384, threads=None) as cluster:
        yield cluster


def tokens_per_s(answers: list[Answer]) -> float:
    """Return the rate of all streams together, between the first token of all and the last."""
    times_s = [time_s for answer in answers for time_s in answer.arrivals_s]
    return (len(times_s) - len(answers)) / (max(times_s) - min(times_s))


def test_sixteen_streams_are_three_times_as_fast_as_one(served: Cluster) -> None:
    """Weights are read once a step, whoever is served by it."""
    speed_ups = []
    for attempt in range(ATTEMPTS):
        one = generate(served.stub, text_request(f"One stream, attempt {attempt}.", NUM_TOKENS))
        many = generate_all(
            served.stub,
            [text_request(f"Stream {index} of many, attempt {attempt}.", NUM_TOKENS) for index in range(NUM_STREAMS)],
        )
        speed_ups.append(tokens_per_s(many) / tokens_per_s([one]))
        if speed_ups[-1] >= LEAST_SPEED_UP:
            break
    print("speed-up of 16 streams:", [f"{value:.2f}" for value in speed_ups])
    assert max(speed_ups) >= LEAST_SPEED_UP, speed_ups


def test_a_long_prompt_slows_others_by_a_factor_at_most(served: Cluster) -> None:
    """The bar is on the median time between two tokens of a running stream while the prompt is read."""
    slowdowns = []
    for attempt in range(ATTEMPTS):
        slowdowns.append(slowdown(served, attempt))
        if slowdowns[-1] <= MOST_SLOWDOWN:
            break
    print("slow-down beside a prompt:", [f"{value:.2f}" for value in slowdowns])
    assert min(slowdowns) <= MOST_SLOWDOWN, slowdowns


def slowdown(cluster: Cluster, attempt: int) -> float:
    """Return how many times longer a running stream's tokens take while an attacker's prompt is prefilled."""
    arrivals: list[tuple[float, int]] = []  # when, and how many tokens
    enough = threading.Event()
    victim = cluster.stub.Generate(text_request(f"Victim {attempt}", 2_000), timeout=300)

    def read() -> None:
        with suppress(grpc.RpcError):  # it is cancelled in the end
            for event in victim:
                arrivals.append((time.perf_counter(), len(event.delta.token_ids)))
                if sum(count for _, count in arrivals) >= NUM_TOKENS:
                    enough.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert enough.wait(60)
    began_s = time.perf_counter()
    prompt = [100 + (index * (attempt + 7)) % 20_000 for index in range(ATTACKER_TOKENS)]
    stops = pb.StoppingParams(max_tokens=1, ignore_eos=True)
    attacker = generate(cluster.stub, pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt), stopping=stops))
    victim.cancel()
    reader.join()
    # Tokens that came together took equally long.
    gaps = [(start, end, count) for (start, _), (end, count) in pairwise(arrivals) if count]
    alone_s = [(end - start) / count for start, end, count in gaps if end < began_s for _ in range(count)]
    inside = [(start, end, count) for start, end, count in gaps if start > began_s and end < attacker.arrivals_s[0]]
    beside_s = [(end - start) / count for start, end, count in inside for _ in range(count)]
    assert len(beside_s) >= 5, "the prompt was read before it could disturb anybody"
    print(
        f"alone {median(alone_s) * 1e3:.1f} ms, beside {median(beside_s) * 1e3:.1f} ms per token "
        f"(worst {max(beside_s) * 1e3:.1f}); the prompt took {attacker.arrivals_s[0] - began_s:.1f} s "
        f"in {attacker.finished.timings.steps} steps"
    )
    return median(beside_s) / median(alone_s)
