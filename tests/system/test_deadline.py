"""A call's own deadline is honoured in the queue, in prefill and in generation, and frees what the call held.

Each step of the rank takes STEP_S at least, so what a call that were not given up would still take is known, whatever
the machine does: somebody who needs every block, and the only slot, is let in long before.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate, text_request
from tests.support.gateway_process import GatewayProcess, running_gateway
from tests.support.problems import read_problem
from tests.support.ranks import rank_group
from tests.support.slow_rank import STEP_S
from tests.support.tiny_model import TinyModel

POOL_TOKENS = 1024
CHUNK_TOKENS = 16
NUM_TOKENS = 900
STREAM_S = NUM_TOKENS * STEP_S
LONG = text_request("on and on", NUM_TOKENS)
LATE_S = 10.0  # a client is told of its deadline by its own timer: this only says that it is told at all
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture(scope="module")
def gateway(tiny_model: TinyModel) -> Iterator[GatewayProcess]:
    """One stream at a time, small chunks, a token a step, and a pool that one stream may fill."""
    settings = {"max_running": 1, "prefix_reuse": False, "max_tokens_per_frame": 1}
    module = "tests.support.slow_rank"
    with (
        rank_group(tiny_model.folder, 1, kv_cache_tokens=POOL_TOKENS, module=module) as ranks,
        tempfile.TemporaryDirectory(prefix="tandem-test-") as work,
        running_gateway(
            tiny_model.folder, [ranks[0].address], Path(work), max_prefill_chunk_tokens=CHUNK_TOKENS, **settings
        ) as running,
    ):
        running.wait_serving()
        yield running


def events_until_deadline(gateway: GatewayProcess, request: pb.GenerateRequest, timeout_s: float) -> list[str]:
    """Return the events of a stream that its deadline must end."""
    began_s, kinds = time.monotonic(), []
    with pytest.raises(grpc.RpcError) as caught:
        for event in gateway.client.stub.Generate(request, timeout=timeout_s):
            kinds.append(event.WhichOneof("event") or "")
    assert read_problem(caught.value).code is DEADLINE_EXCEEDED
    assert timeout_s - 0.1 < time.monotonic() - began_s < timeout_s + LATE_S
    return kinds


def all_is_free(gateway: GatewayProcess, before_s: float) -> None:
    """Assert that a request which needs (nearly) all blocks is let in in less than `before_s`."""
    ids = random.Random(time.time_ns()).choices(range(256), k=POOL_TOKENS - 64)
    stopping = pb.StoppingParams(max_tokens=8, ignore_eos=True)
    answer = generate(gateway.client.stub, pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), stopping=stopping))
    assert len(answer.ids) == 8
    assert answer.finished.timings.queue_ns * 1e-9 < before_s, "the call went on after its deadline"


def test_in_generation(gateway: GatewayProcess) -> None:
    timeout_s = 0.2 * STREAM_S
    kinds = events_until_deadline(gateway, LONG, timeout_s)
    assert kinds[:2] == ["started", "delta"] and "finished" not in kinds
    all_is_free(gateway, before_s=(STREAM_S - timeout_s) / 2)


def test_in_prefill(gateway: GatewayProcess) -> None:
    prompt_tokens, answer_tokens = 480, 480
    prefill_s = prompt_tokens / CHUNK_TOKENS * STEP_S
    assert events_until_deadline(gateway, text_request("p" * prompt_tokens, answer_tokens), prefill_s / 2) == []
    all_is_free(gateway, before_s=answer_tokens * STEP_S / 2)


def test_in_the_queue(gateway: GatewayProcess) -> None:
    """Whoever waited is not let in later either."""
    running = gateway.client.stub.Generate(LONG, timeout=60)
    assert next(running).WhichOneof("event") == "started"
    assert events_until_deadline(gateway, LONG, timeout_s=0.5) == []
    running.cancel()
    all_is_free(gateway, before_s=STREAM_S / 2)


@pytest.mark.parametrize("timeout_s", [0.0, 1e-6, 1e-4])
def test_expired_before_it_began(gateway: GatewayProcess, timeout_s: float) -> None:
    # gRPC's timers are no finer than a millisecond or so, in which a quick model may even begin.
    assert "finished" not in events_until_deadline(gateway, LONG, timeout_s)
    with pytest.raises(grpc.RpcError) as caught:
        gateway.client.stub.Score(pb.ScoreRequest(text="too late"), timeout=timeout_s)
    assert read_problem(caught.value).code is DEADLINE_EXCEEDED
    all_is_free(gateway, before_s=STREAM_S / 2)
