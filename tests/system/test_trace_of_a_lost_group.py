"""A rank is killed in mid-stream: what its peer did for the request is told all the same, as an error."""

import secrets

import pytest

from tests.support.answers import text_request
from tests.support.cluster import running_cluster
from tests.support.otlp_sink import running_sink
from tests.support.tiny_model import TinyModel


def test_the_survivors_span_is_an_error(tiny_model: TinyModel) -> None:
    trace_id = secrets.token_hex(16)
    metadata = (("traceparent", f"00-{trace_id}-{'1' * 16}-01"),)
    with running_sink() as sink, pytest.MonkeyPatch.context() as environ:
        environ.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{sink.address}")
        settings = {"tp": 2, "kv_cache_tokens": 4096, "drain_budget_s": 1.0, "dtype": "float32"}
        with running_cluster(model=tiny_model.folder, **settings) as cluster:
            call = cluster.stub.Generate(text_request("on and on", 3_000), metadata=metadata, timeout=120)
            received = 0
            while received < 20:
                received += len(next(call).delta.token_ids)
            cluster.ranks[1].kill()
            spans = sink.wait_for(lambda spans: any(span.name == "shard" for span in spans), trace_id)
            call.cancel()
        # The ranks come back and the stream goes on, in spans of its own; this one is of the group that was lost.
        survivor = next(span for span in spans if span.name == "shard")
        assert survivor.is_error and survivor.attributes["tandem.tp.rank"] == 0
        assert survivor.attributes["tandem.decode.steps"] > 0
