"""A request's trace as a collector gets it: four processes, one tree, times that add up, and no word of a prompt"""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grpc
import pytest

from tandem.v1 import inference_service_pb2 as pb
from tests.support.cluster import Cluster, running_cluster
from tests.support.otlp_sink import OtlpSink, ReceivedSpan, running_sink
from tests.support.tiny_model import TinyModel

CALLERS_SPAN = "00f067aa0ba902b7"
PHASES = ["tokenize", "queue", "prefill", "decode"]
TOLERANCE = 0.05
# Client, collector and four services share the machine: a client may be woken late.
ATTEMPTS = 8
CANARY = "canary7391"
PROMPT = pb.ChatMessages(messages=[pb.ChatMessage(role=f"role_{CANARY}", content=f"{CANARY} sings and sings")])
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT


class Traced:
    """A cluster that traces to a sink."""

    def __init__(self, cluster: Cluster, sink: OtlpSink) -> None:
        self.cluster, self.sink = cluster, sink

    def call(self, trace_id: str, request: pb.GenerateRequest, timeout_s: float | None = None) -> Any:
        """Begin a Generate call as part of a trace."""
        metadata = (("traceparent", f"00-{trace_id}-{CALLERS_SPAN}-01"), ("tracestate", "vendor=1"))
        return self.cluster.stub.Generate(request, metadata=metadata, timeout=timeout_s)

    def tree(self, trace_id: str) -> list[ReceivedSpan]:
        """Return a trace once gateway, both ranks and the draft worker have told their part."""

        def has_all(spans: Sequence[ReceivedSpan]) -> bool:
            names = [span.name for span in spans]
            return names.count("shard") == 2 and "draft" in names and any(s.parent_id == CALLERS_SPAN for s in spans)

        return self.sink.wait_for(has_all, trace_id)


@pytest.fixture(scope="module")
def traced(tiny_model: TinyModel) -> Iterator[Traced]:
    settings = {"tp": 2, "draft": tiny_model.folder, "kv_cache_tokens": 16384, "dtype": "float32"}
    settings |= {"log_level": "debug", "log_format": "json"}
    gateway = ("draft_length=fixed", "trace_every_steps=5")
    with running_sink() as sink, pytest.MonkeyPatch.context() as environ:
        environ.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{sink.address}")
        environ.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with running_cluster(model=tiny_model.folder, gateway=gateway, **settings) as cluster:
            yield Traced(cluster, sink)


def request(max_tokens: int) -> pb.GenerateRequest:
    stopping = pb.StoppingParams(max_tokens=max_tokens, ignore_eos=True, stop_strings=[f"stop {CANARY}"])
    return pb.GenerateRequest(request_id="named", chat=PROMPT, stopping=stopping)


def root_of(spans: Sequence[ReceivedSpan]) -> ReceivedSpan:
    (root,) = [span for span in spans if span.parent_id == CALLERS_SPAN]
    return root


def children_of(spans: Sequence[ReceivedSpan], parent: ReceivedSpan) -> list[ReceivedSpan]:
    found = [span for span in spans if span.parent_id == parent.span_id and span.service == parent.service]
    return sorted(found, key=lambda span: (span.message.start_time_unix_nano, span.message.end_time_unix_nano))


def check_tree(spans: Sequence[ReceivedSpan]) -> None:
    """One root, four processes; every parent is there; what other processes did hangs below the root."""
    root = root_of(spans)
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent_id in ids for span in spans if span is not root)
    assert len({span.instance for span in spans}) == 4
    others = [span for span in spans if span.service != "tandem-gateway"]
    assert sorted((span.service, span.name) for span in others) == [
        ("tandem-draft", "draft"),
        ("tandem-shard", "shard"),
        ("tandem-shard", "shard"),
    ]
    assert {span.parent_id for span in others} == {root.span_id}
    ranks = [span.attributes for span in others if span.name == "shard"]
    assert sorted(rank["tandem.tp.rank"] for rank in ranks) == [0, 1]
    assert all(rank["tandem.prefill.steps"] >= 1 and rank["tandem.decode.compute_ms"] > 0 for rank in ranks)


def adds_up(spans: Sequence[ReceivedSpan], client_ns: int) -> bool:
    total_ns = sum(span.duration_ns for span in children_of(spans, root_of(spans)))
    return abs(total_ns - client_ns) <= TOLERANCE * client_ns


def some_attempt_adds_up(traced: Traced, attempt: Callable[[str], int]) -> list[ReceivedSpan]:
    """Return the spans of an attempt whose phases take what its client measured; all attempts make whole trees."""
    for _ in range(ATTEMPTS):
        trace_id = secrets.token_hex(16)
        client_ns = attempt(trace_id)
        spans = traced.tree(trace_id)
        check_tree(spans)
        if adds_up(spans, client_ns):
            return spans
    raise AssertionError(f"{[(s.name, s.duration_ns) for s in spans]} do not add up to {client_ns}")


def test_one_request_is_one_tree_whose_phases_add_up(traced: Traced) -> None:
    def attempt(trace_id: str) -> int:
        began_ns = time.perf_counter_ns()
        list(traced.call(trace_id, request(200)))
        return time.perf_counter_ns() - began_ns

    spans = some_attempt_adds_up(traced, attempt)
    root = root_of(spans)
    assert (root.name, root.is_error, root.message.trace_state) == ("chat tiny", False, "vendor=1")
    told = root.attributes
    assert told["gen_ai.usage.output_tokens"] == 200 and told["gen_ai.response.finish_reasons"] == ["length"]
    assert told["gen_ai.response.id"] == "named" and told["rpc.response.status_code"] == "OK"
    assert told["tandem.speculation.draft_tokens"] >= told["tandem.speculation.accepted_tokens"] > 0
    assert [span.name for span in children_of(spans, root)] == [*PHASES, "deliver"]
    (decode,) = [span for span in spans if span.name == "decode"]
    assert [s.name for s in children_of(spans, decode)] == ["propose", "plan", "verify", "decide", "detokenize"]
    (draft,) = [span for span in spans if span.name == "draft"]
    assert draft.attributes["tandem.draft.tokens"] >= told["tandem.speculation.accepted_tokens"]


def test_after_a_cancel_the_tree_is_whole(traced: Traced) -> None:
    def attempt(trace_id: str) -> int:
        began_ns = time.perf_counter_ns()
        call = traced.call(trace_id, request(3000))
        received = 0
        while received < 100:
            received += len(next(call).delta.token_ids)
        call.cancel()
        return time.perf_counter_ns() - began_ns

    spans = some_attempt_adds_up(traced, attempt)
    root = root_of(spans)
    assert (root.is_error, root.attributes["rpc.response.status_code"]) == (False, "CANCELLED")
    assert root.attributes["tandem.is_cancelled"]
    assert [span.name for span in children_of(spans, root)] == PHASES


def test_after_a_deadline_the_tree_is_whole_and_an_error(traced: Traced) -> None:
    def attempt(trace_id: str) -> int:
        began_ns = time.perf_counter_ns()
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            list(traced.call(trace_id, request(4000), timeout_s=1.0))
        return time.perf_counter_ns() - began_ns

    root = root_of(some_attempt_adds_up(traced, attempt))
    assert root.is_error and root.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


def test_a_refused_request_is_a_span_alone_that_says_why(traced: Traced) -> None:
    trace_id = secrets.token_hex(16)
    with pytest.raises(grpc.RpcError):
        list(traced.call(trace_id, request(max_tokens=10**6)))
    spans = traced.sink.wait_for(lambda spans: any(s.parent_id == CALLERS_SPAN for s in spans), trace_id)
    root = root_of(spans)
    assert root.is_error and root.message.status.message == "INVALID_REQUEST"
    assert root.attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert [span.name for span in spans if span is not root] == ["tokenize"]


def test_sampled_steps_are_roots_linked_to_the_requests_they_served(traced: Traced) -> None:
    trace_id = secrets.token_hex(16)
    list(traced.call(trace_id, request(100)))
    root = root_of(traced.tree(trace_id))

    def linked(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
        ids = (root.message.trace_id, root.message.span_id)
        return [s for s in spans if any((link.trace_id, link.span_id) == ids for link in s.message.links)]

    steps = linked(traced.sink.wait_for(lambda spans: bool(linked(spans))))
    assert all((step.name, step.parent_id) == ("step", "") and step.trace_id != trace_id for step in steps)
    assert all(len(step.attributes["tandem.rank.compute_ms"]) == 2 for step in steps)


# Each is refused, and no refusal may repeat it.
REFUSED = {
    "model": pb.GenerateRequest(model=CANARY, text="x"),
    "request_id": pb.GenerateRequest(request_id=CANARY * 20, text="x"),
    "stop_strings": pb.GenerateRequest(text="x", stopping=pb.StoppingParams(stop_strings=[CANARY * 100])),
    "text": pb.GenerateRequest(text=CANARY * 2000),
    "content": pb.GenerateRequest(chat=pb.ChatMessages(messages=[pb.ChatMessage(role="user", content=CANARY * 2000)])),
    "role": pb.GenerateRequest(chat=pb.ChatMessages(messages=[pb.ChatMessage(role=f"{CANARY} !", content="x")])),
}


@pytest.mark.parametrize("field", REFUSED)
def test_a_refusal_does_not_repeat_what_was_sent(traced: Traced, field: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(traced.call(secrets.token_hex(16), REFUSED[field]))
    assert CANARY not in str(caught.value) and CANARY not in str(caught.value.trailing_metadata())


def test_the_log_is_json_with_the_requests_ids_and_nothing_holds_a_prompt(traced: Traced) -> None:
    trace_id = secrets.token_hex(16)
    list(traced.call(trace_id, request(20)))
    traced.tree(trace_id)
    lines = [json.loads(line) for line in traced.cluster.log.splitlines()]
    assert {line["service"] for line in lines} >= {"up", "gateway", "rank-0", "rank-1", "draft"}
    (line,) = [line for line in lines if line.get("trace_id") == trace_id]
    assert (line["request_id"], line["level"], len(line["span_id"])) == ("named", "debug", 16)
    assert CANARY not in traced.cluster.log
    assert CANARY.encode() not in traced.sink.raw and traced.sink.raw
