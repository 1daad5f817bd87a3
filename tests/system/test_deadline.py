"""A call's own deadline is honoured in the queue, in prefill and in generation, and frees what the call held."""

import random
import time
from collections.abc import Iterator

import grpc
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate, text_request
from tests.support.cluster import Cluster, running_cluster
from tests.support.problems import read_problem
from tests.support.tiny_model import TinyModel

POOL_TOKENS = 4096
LONG = text_request("on and on", 4000)
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture(scope="module")
def cluster(tiny_model: TinyModel) -> Iterator[Cluster]:
    """One stream at a time, small chunks, and a pool that one stream may fill."""
    settings = {"max_running": 1, "kv_cache_tokens": POOL_TOKENS, "max_prefill_chunk_tokens": 16, "prefix_reuse": False}
    with running_cluster(model=tiny_model.folder, dtype="float32", **settings) as running:
        yield running


def events_until_deadline(cluster: Cluster, request: pb.GenerateRequest, timeout_s: float) -> tuple[list[str], float]:
    """Return the events of a stream that its deadline must end, and how long it took."""
    began_s, kinds = time.monotonic(), []
    with pytest.raises(grpc.RpcError) as caught:
        for event in cluster.stub.Generate(request, timeout=timeout_s):
            kinds.append(event.WhichOneof("event") or "")
    assert read_problem(caught.value).code is DEADLINE_EXCEEDED
    return kinds, time.monotonic() - began_s


def whole_pool_is_free(cluster: Cluster) -> None:
    """A request that needs (nearly) all blocks is served next."""
    ids = random.Random(time.time_ns()).choices(range(256), k=POOL_TOKENS - 64)
    answer = generate(
        cluster.stub,
        pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), stopping=pb.StoppingParams(max_tokens=8, ignore_eos=True)),
    )
    assert len(answer.ids) == 8


def test_in_generation(cluster: Cluster) -> None:
    kinds, took_s = events_until_deadline(cluster, LONG, timeout_s=1.0)
    assert kinds[:2] == ["started", "delta"] and "finished" not in kinds
    assert 0.9 < took_s < 4.0
    whole_pool_is_free(cluster)


def test_in_prefill(cluster: Cluster) -> None:
    prompt = text_request("p" * 4000, 8)
    whole = generate(cluster.stub, prompt).finished.timings
    kinds, _ = events_until_deadline(cluster, prompt, timeout_s=whole.time_to_first_token_ns * 0.3e-9)
    assert kinds == []
    whole_pool_is_free(cluster)


def test_in_the_queue(cluster: Cluster) -> None:
    running = cluster.stub.Generate(LONG, timeout=60)
    assert next(running).WhichOneof("event") == "started"
    kinds, took_s = events_until_deadline(cluster, text_request("waits", 4), timeout_s=0.5)
    assert kinds == [] and 0.4 < took_s < 4.0
    running.cancel()
    assert generate(cluster.stub, text_request("waits", 4)).finished.timings.queue_ns < 5e9
    whole_pool_is_free(cluster)


def test_expired_before_it_began(cluster: Cluster) -> None:
    # gRPC's timers are no finer than a millisecond or so, in which a quick model may even begin.
    for timeout_s in (0.0, 1e-6, 1e-4):
        kinds, took_s = events_until_deadline(cluster, LONG, timeout_s)
        assert "finished" not in kinds and took_s < 4.0
    with pytest.raises(grpc.RpcError) as caught:
        cluster.stub.Score(pb.ScoreRequest(text="too late"), timeout=1e-6)
    assert read_problem(caught.value).code is DEADLINE_EXCEEDED
    whole_pool_is_free(cluster)
