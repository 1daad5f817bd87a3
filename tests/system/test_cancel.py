"""Streams that are given up leave nothing behind: no block, no file, no thread; and nobody else notices."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate, text_request
from tests.support.cluster import Client, Cluster, environment, running_cluster
from tests.support.storm import storm
from tests.support.tiny_model import TinyModel, TinyShape, make_tiny_model

NUM_STREAMS = 500
POOL_TOKENS = 2048
FREED_WITHIN_S = 1.0
STRAY_THREADS = 3  # the libraries' pools of threads grow with the load
SETTLED_WITHIN_S = 20.0
# The server pings a silent client after 5 s and gives it up 2 s later.
VANISHED_WITHIN_S = 10.0

CLIENT = """
import sys
from tandem.v1 import inference_service_pb2 as pb
from tests.support.cluster import Client

request = pb.GenerateRequest(text="on and on", stopping=pb.StoppingParams(max_tokens=2000, ignore_eos=True))
for event in Client(sys.argv[1]).stub.Generate(request):
    print(event.WhichOneof("event"), flush=True)
"""


@pytest.fixture(scope="module")
def cluster(tiny_model: TinyModel) -> Iterator[Cluster]:
    """Few slots and few blocks, so that streams wait, and push each other out."""
    settings = {"max_running": 16, "kv_cache_tokens": POOL_TOKENS, "max_prefill_chunk_tokens": 64}
    with running_cluster(model=tiny_model.folder, dtype="float32", **settings) as running:
        yield running


def whole_pool_request(max_tokens: int) -> pb.GenerateRequest:
    """Return a request that is admitted only when (nearly) all blocks are free."""
    ids = random.Random(time.time_ns()).choices(range(256), k=POOL_TOKENS - 64)
    stopping = pb.StoppingParams(max_tokens=max_tokens, ignore_eos=True)
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), stopping=stopping)


def holdings(processes: list[psutil.Process]) -> list[tuple[int, int]]:
    """Return each process's number of open files and of threads."""
    return [(process.num_fds(), process.num_threads()) for process in processes]


def test_500_streams_given_up_leave_nothing_behind(cluster: Cluster) -> None:
    request = text_request("the same as ever", 48)
    reference = generate(cluster.stub, request)
    storm(cluster.address, 100, at_once=32, seed=1)  # threads and buffers of the libraries come to stay
    generate(cluster.stub, whole_pool_request(max_tokens=8))
    processes = [cluster.gateway, *cluster.ranks]
    before, memory_bytes = holdings(processes), cluster.gateway.memory_info().rss

    how_far = storm(cluster.address, NUM_STREAMS, at_once=32, seed=2)
    assert sum(how_far.values()) == NUM_STREAMS
    assert all(how_far[place] >= NUM_STREAMS // 50 for place in ("nothing", "started", "finished")), how_far

    # The books of the block pool are checked after every step that leaves nothing running; a wrong one ends the
    # gateway. And here is somebody who needs every block.
    answer = generate(cluster.stub, whole_pool_request(max_tokens=8))
    assert len(answer.ids) == 8
    again = generate(cluster.stub, request)
    assert (again.ids, again.text) == (reference.ids, reference.text)
    assert [cluster.gateway, *cluster.ranks] == processes
    deadline_s = time.monotonic() + SETTLED_WITHIN_S
    most = [(files, threads + STRAY_THREADS) for files, threads in before]
    while any(now[i] > limit[i] for now, limit in zip(holdings(processes), most, strict=True) for i in (0, 1)):
        assert time.monotonic() < deadline_s, f"files and threads: {before} before, {holdings(processes)} now"
        time.sleep(0.2)
    assert cluster.gateway.memory_info().rss < memory_bytes + (32 << 20)


@pytest.mark.parametrize("manner", ["cancel", "close the channel"])
def test_a_stream_that_is_given_up_makes_room_at_once(cluster: Cluster, manner: str) -> None:
    """It would have gone on for seconds, and nothing else fits beside it."""
    client = Client(cluster.address)
    stream = client.stub.Generate(text_request("on and on", POOL_TOKENS - 100))
    began_s = time.monotonic()
    assert [next(stream).WhichOneof("event") for _ in range(101)] == ["started"] + ["delta"] * 100
    per_token_s = (time.monotonic() - began_s) / 100
    if manner == "cancel":
        stream.cancel()
    client.close()
    waited_s = generate(cluster.stub, whole_pool_request(max_tokens=1)).finished.timings.queue_ns * 1e-9
    assert waited_s < min(FREED_WITHIN_S, (POOL_TOKENS - 500) * per_token_s)


def test_a_client_that_vanishes_is_given_up(tmp_path: Path) -> None:
    """SIGSTOP closes no connection: only the unanswered ping tells. Its blocks are free soon after."""
    slow = make_tiny_model(tmp_path, TinyShape(layers=40, context_length=POOL_TOKENS))
    settings = {"kv_cache_tokens": POOL_TOKENS, "shard": "native=off"}  # slower, so that the stream outlives the pings
    with running_cluster(model=slow.folder, dtype="float32", **settings) as cluster:
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, cluster.address], env=environment(), stdout=subprocess.PIPE, text=True
        )
        try:
            assert client.stdout
            began_s = time.monotonic()
            assert [client.stdout.readline().strip() for _ in range(101)] == ["started"] + ["delta"] * 100
            per_token_s = (time.monotonic() - began_s) / 100
            os.kill(client.pid, signal.SIGSTOP)
            answer = generate(cluster.stub, whole_pool_request(max_tokens=1))
        finally:
            client.kill()
            client.communicate()
        waited_s = answer.finished.timings.queue_ns * 1e-9
        assert 1.0 < waited_s < VANISHED_WITHIN_S
        assert waited_s < 1500 * per_token_s, "the stream ended by itself"
