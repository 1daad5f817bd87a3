"""Whether a process traces, by the standard variables; and that one that does not pays nothing."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.telemetry.setup import is_wanted, set_up_tracing
from common.telemetry.tracer import OFF
from tests.support.otlp_sink import running_sink

ROOT = Path(__file__).parents[3]
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        ({ENDPOINT: "http://collector:4317", "OTEL_SDK_DISABLED": "True"}, False),
        ({ENDPOINT: "http://collector:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
    ],
)
def test_the_variables_decide(environ: Mapping[str, str], wanted: bool) -> None:
    assert is_wanted(environ) is wanted


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({ENDPOINT: "http://c:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({ENDPOINT: "http://c:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "pip install"),
    ],
)
def test_what_cannot_be_had_is_named(environ: Mapping[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        set_up_tracing("test", environ=environ)


# Every module of a service, then the set-up, then whatever of OpenTelemetry is there and which threads run.
CHILD = """
import sys, threading
import gateway.server
from common.telemetry.setup import set_up_tracing
tracer = set_up_tracing("test")
with_span = tracer.begin("a", 0)
print(tracer.is_on, [name for name in sys.modules if name.startswith("opentelemetry")], threading.active_count())
"""


def child(code: str, **environ: str) -> str:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "proto")))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**variables, "PYTHONPATH": paths, **environ},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_without_an_endpoint_nothing_is_imported_and_no_thread_runs() -> None:
    assert set_up_tracing("test", environ={}) is OFF
    assert child(CHILD) == "False [] 1"


ONE_SPAN = """
from common.telemetry.setup import set_up_tracing
from common.telemetry.traceparent import Parent
from common.telemetry.tracer import Ending, Hop
tracer = set_up_tracing("tandem-test", {"tandem.tp.rank": 3})
span = tracer.begin("first", 1_000, Parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + FLAGS))
span.add([Hop("whole", 1_000, 9_000, {}, [Hop("part", 2_000, 3_000, {"left.out": None})])])
span.end(11_000, Ending("UNAVAILABLE", "WORD", "second", {"one": 1}))
tracer.close()
print(span.is_recording, span.traceparent)
"""


def test_a_span_arrives_as_it_was_told() -> None:
    with running_sink() as sink:
        told = child('FLAGS = "01"' + ONE_SPAN, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{sink.address}")
        spans = {span.name: span for span in sink.wait_for(lambda spans: len(spans) == 3)}
    root, whole, part = spans["second"], spans["whole"], spans["part"]
    assert told == f"False 00-0af7651916cd43dd8448eb211c80319c-{root.span_id}-01"
    assert (root.parent_id, whole.parent_id, part.parent_id) == ("b7ad6b7169203331", root.span_id, whole.span_id)
    assert [span.duration_ns for span in (root, whole, part)] == [10_000, 8_000, 1_000]
    assert part.message.start_time_unix_nano - root.message.start_time_unix_nano == 1_000
    assert root.is_error and root.message.status.message == "WORD" and root.attributes["one"] == 1
    assert root.service == "tandem-test" and "left.out" not in part.attributes


def test_the_variables_name_the_service_and_the_callers_sampling_holds() -> None:
    with running_sink() as sink:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{sink.address}", "OTEL_SERVICE_NAME": "renamed"}
        told = child('FLAGS = "00"' + ONE_SPAN, **environ)
        assert told.endswith("-00") and sink.spans == []
        child('FLAGS = "01"' + ONE_SPAN, **environ)
        assert {span.service for span in sink.wait_for(bool)} == {"renamed"}


def test_a_collector_that_is_not_there_holds_nobody_up() -> None:
    told = child('FLAGS = "01"' + ONE_SPAN, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert told.startswith("False 00-")
