"""Bytes that are no request, or a huge one: refused as the caller's mistake, and the next good request is answered."""

import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, cast

import grpc
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.answers import generate, text_request
from tests.support.cluster import Cluster
from tests.support.problems import Problem, problem_of, read_problem

GOOD = text_request("The sea is", 16, request_id="a", logprobs=1)
METHODS = ("Generate", "Score", "GetModel", "Tokenize", "Detokenize")
INVALID = grpc.StatusCode.INVALID_ARGUMENT
FUZZED = 300
Send = Callable[[str, bytes], None]


@pytest.fixture
def send(tiny_cluster: Cluster) -> Send:
    """Calls a method with bytes as they are, and reads the answer, or the first events of a stream."""

    def call(method: str, data: bytes) -> None:
        path, channel = f"/tandem.v1.InferenceService/{method}", cast(Any, tiny_cluster.client.channel)
        if method == "Generate":
            stream = channel.unary_stream(path)(data, timeout=20)
            list(islice(stream, 3))
            stream.cancel()
        else:
            channel.unary_unary(path)(data, timeout=20)

    return call


@pytest.fixture(autouse=True)
def untouched(tiny_cluster: Cluster) -> Iterator[None]:
    """Whatever a test sends, a good request is answered as before."""
    before = generate(tiny_cluster.stub, GOOD)
    yield
    after = generate(tiny_cluster.stub, GOOD)
    assert (after.ids, after.text) == (before.ids, before.text)


def outcome(send: Send, method: str, data: bytes) -> Problem | None:
    """Return what a call failed with, None if it did not."""
    try:
        send(method, data)
    except grpc.RpcError as error:
        return read_problem(error)
    return None


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_parsed_is_the_callers_mistake(send: Send, method: str) -> None:
    broken = {
        "a field number of 0": b"\x00\x01",
        "a length beyond the end": b"\x0a\x7f" + b"abc",
        "a number without an end": b"\x48" + b"\xff" * 11,
        "a group that is not closed": b"\x0b\x0b",
        "a group's end alone": b"\x0c",
        "an unknown wire type": b"\x0f",
    }
    for what, data in broken.items():
        problem = problem_of(send, method, data)
        assert (problem.code, problem.reason, problem.field) == (INVALID, "INVALID_REQUEST", ""), what


@pytest.mark.parametrize(
    "method, data", [("Generate", b"\x1a\x02\xc3\x28"), ("Tokenize", b"\x12\x01\xff"), ("Score", b"\x0a\x01\x80")]
)
def test_strings_must_be_utf8(send: Send, method: str, data: bytes) -> None:
    problem = problem_of(send, method, data)
    assert (problem.code, problem.reason) == (INVALID, "INVALID_REQUEST")
    assert "UTF-8" in problem.message


def test_a_field_of_another_type_is_as_good_as_absent(send: Send) -> None:
    """protobuf keeps a field of the wrong wire type as an unknown one: here the prompt is then missing."""
    text_as_number, text_as_double = b"\x18\x05", b"\x19" + b"\0" * 8
    for data in (b"", text_as_number, text_as_double):
        problem = problem_of(send, "Generate", data)
        assert (problem.code, problem.field) == (INVALID, "prompt")


def test_truncated_and_mutated_requests(send: Send) -> None:
    """Whatever comes of it, it is an answer or the caller's mistake: never INTERNAL, never a hang."""
    draw, data = random.Random(5), GOOD.SerializeToString()
    allowed = {None, INVALID, grpc.StatusCode.NOT_FOUND}
    seen = set()
    for end in range(len(data)):
        seen.add(code_of(outcome(send, "Generate", data[:end])))
    for _ in range(FUZZED):
        changed = bytearray(data)
        for _ in range(draw.randrange(1, 4)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        seen.add(code_of(outcome(send, "Generate", bytes(changed))))
    assert seen <= allowed and {None, INVALID} <= seen


def test_random_bytes(send: Send) -> None:
    draw = random.Random(6)
    for index in range(FUZZED):
        problem = outcome(send, METHODS[index % len(METHODS)], draw.randbytes(draw.randrange(1, 60)))
        assert code_of(problem) in {None, INVALID, grpc.StatusCode.NOT_FOUND}


def test_a_message_that_is_too_large(tiny_cluster: Cluster, send: Send) -> None:
    """1 MiB is the limit (max_message_bytes); below it, the size alone is no reason to refuse."""
    fits = pb.TokenizeRequest(text="x" * ((1 << 20) - 100))
    assert len(tiny_cluster.stub.Tokenize(fits, timeout=60).token_ids) == (1 << 20) - 100
    for size in (1 << 20, 3 << 20):
        data = pb.TokenizeRequest(text="x" * size).SerializeToString()
        assert problem_of(send, "Tokenize", data).code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_unknown_methods_and_services(tiny_cluster: Cluster) -> None:
    for path in (
        "/tandem.v1.InferenceService/Nothing",
        "/tandem.v1.Nothing/Generate",
        "/tandem.shard.v1.ShardService/Run",
    ):
        call: Any = tiny_cluster.client.channel.unary_unary(path)
        assert problem_of(call, b"").code is grpc.StatusCode.UNIMPLEMENTED


def code_of(problem: Problem | None) -> grpc.StatusCode | None:
    return problem.code if problem else None
