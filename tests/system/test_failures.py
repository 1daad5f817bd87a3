"""The end of things under `tandem up`: a rank that dies, a shutdown in mid-stream, more requests than can wait."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import grpc
import psutil
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate, read_answer, text_request
from tests.support.cluster import Cluster, running_cluster
from tests.support.problems import problem_of, read_problem
from tests.support.tiny_model import TinyModel

LONG = text_request("on and on", 3_000)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


def family(cluster: Cluster) -> list[psutil.Process]:
    """Return all processes of a cluster but the first."""
    return [*cluster.ranks, *cluster.gateway.children(recursive=True), cluster.gateway]


def started(cluster: Cluster, request: pb.GenerateRequest) -> Any:
    """Return a stream that has begun to generate."""
    stream = cluster.stub.Generate(request, timeout=120)
    assert next(stream).WhichOneof("event") == "started"
    return stream


def test_streams_go_on_when_a_rank_is_killed(tiny_model: TinyModel) -> None:
    """Idle first, then with a stream on its way, which says what an undisturbed one says."""
    settings = {"tp": 2, "kv_cache_tokens": 4096, "drain_budget_s": 2.0}
    request = text_request("the same as ever", 600)
    with running_cluster(model=tiny_model.folder, dtype="float32", **settings) as cluster:
        reference = generate(cluster.stub, request)
        killed = kill_rank(cluster, 1)
        assert generate(cluster.stub, request).ids == reference.ids
        stream = cluster.stub.Generate(request, timeout=120)
        begun = list(islice(stream, 100))
        killed |= kill_rank(cluster, 0)
        answer = read_answer(chain(begun, stream))
        assert (answer.ids, answer.text) == (reference.ids, reference.text)
        for line in ("rank 1 ended unexpectedly, killed by signal 9: starting rank 0, rank 1 again", "rank 0 ended"):
            assert line in cluster.log
        assert not killed & {rank.pid for rank in cluster.ranks}
        everybody = family(cluster)
        cluster.terminate()
        assert cluster.wait(30) == 0
        assert psutil.wait_procs(everybody, timeout=5)[1] == []


def kill_rank(cluster: Cluster, rank: int) -> set[int]:
    """Kill a rank, return the group's process ids once all of it are gone and others serve."""
    group = cluster.ranks
    group[rank].send_signal(signal.SIGKILL)
    assert psutil.wait_procs(group, timeout=30)[1] == []
    return {process.pid for process in group}


def test_a_killed_gateway_ends_everything(tiny_model: TinyModel) -> None:
    with running_cluster(model=tiny_model.folder, dtype="float32", kv_cache_tokens=4096) as cluster:
        everybody = family(cluster)
        cluster.gateway.send_signal(signal.SIGKILL)
        assert cluster.wait(30) == 1
        assert "gateway ended unexpectedly, killed by signal 9: ending all" in cluster.log
        assert psutil.wait_procs(everybody, timeout=5)[1] == []


def test_sigterm_lets_a_stream_finish_and_refuses_new_ones(tiny_model: TinyModel) -> None:
    request = text_request("a last story", 600)
    settings = {"kv_cache_tokens": 4096, "shard": "native=off"}  # slower, so that the stream outlives the refusal
    with running_cluster(model=tiny_model.folder, dtype="float32", **settings) as cluster:
        expected = generate(cluster.stub, request).ids
        stream = cluster.stub.Generate(request, timeout=120)
        first = next(stream)
        with ThreadPoolExecutor(1) as threads:
            rest = threads.submit(lambda: read_answer([first, *stream]))
            cluster.terminate()
            deadline_s = time.monotonic() + 20
            while "draining" not in cluster.log:
                assert time.monotonic() < deadline_s, cluster.log
                time.sleep(0.005)
            problem = problem_of(generate, cluster.stub, text_request("too late", 1))
            assert not rest.done(), "the stream ended before the new request was refused"
            answer = rest.result(60)
        assert (problem.code, problem.reason) == (UNAVAILABLE, "UNAVAILABLE") and problem.retry_after_s
        assert answer.ids == expected
        assert cluster.wait(20) == 0


def test_a_stream_that_exceeds_the_drain_budget_is_cut(tiny_model: TinyModel) -> None:
    settings = {"kv_cache_tokens": 4096, "drain_budget_s": 0.1}
    with running_cluster(model=tiny_model.folder, dtype="float32", **settings) as cluster:
        everybody, stream = family(cluster), started(cluster, LONG)
        cluster.terminate()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert read_problem(caught.value).code in (UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert cluster.wait(20) == 0
        assert psutil.wait_procs(everybody, timeout=5)[1] == []


def test_overload_is_refused_at_once(tiny_model: TinyModel) -> None:
    settings = {"max_running": 2, "max_queued_requests": 3, "kv_cache_tokens": 16384}
    with running_cluster(model=tiny_model.folder, dtype="float32", **settings) as cluster:
        running = [started(cluster, LONG) for _ in range(2)]
        with ThreadPoolExecutor(3) as threads:
            waiting = [threads.submit(generate, cluster.stub, text_request("I wait", 4)) for _ in range(3)]
            time.sleep(0.5)
            for _ in range(5):
                began_s = time.monotonic()
                problem = problem_of(generate, cluster.stub, text_request("too many", 4))
                assert time.monotonic() - began_s < 1.0
                assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
                assert problem.retry_after_s
            score = problem_of(cluster.stub.Score, pb.ScoreRequest(text="too many"))
            assert score.code is grpc.StatusCode.RESOURCE_EXHAUSTED and score.retry_after_s
            for stream in running:
                stream.cancel()
            answers = [future.result(60) for future in waiting]
        assert len({tuple(answer.ids) for answer in answers}) == 1
        assert generate(cluster.stub, text_request("I wait", 4)).ids == answers[0].ids
