"""Are figures told as they were recorded, to a Prometheus that pulls them and to a collector that is pushed to?"""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from common.errors import SettingsError
from common.telemetry.metrics import MAX_SERIES, Metrics
from common.telemetry.metrics_export import exported, is_read
from common.telemetry.metrics_http import MetricsServer
from tests.support.promtool import run_promtool

WAIT_S = 60.0


def some_metrics() -> Metrics:
    metrics = Metrics({"model_name": 'a "model"\n'})
    metrics.counter("tandem.test.tokens", "{token}", "Tokens.", ("kind",)).of("new").add(3)
    metrics.gauge("tandem.test.use", "1", "Share in use.").of().set(0.25)
    waits = metrics.histogram("tandem.test.wait", "s", "Time waited.", (0.1, 1.0)).of()
    for wait_s in (0.05, 0.1, 0.5, 7.0):
        waits.observe(wait_s)
    waits.observe(0.5, times=2)
    metrics.counter("tandem.test.nothing", "", "Has no series yet.", ("kind",))
    return metrics


def page(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=WAIT_S) as answer:
        text: str = answer.read().decode()
    return text


def test_a_scrape_has_every_figure() -> None:
    with MetricsServer(some_metrics(), "127.0.0.1:0") as server:
        text = page(server.address)
    ours = [line for line in text.splitlines() if line.startswith("tandem_")]
    model = 'model_name="a \\"model\\"\\n"'
    assert ours == [
        f'tandem_test_tokens_total{{kind="new",{model}}} 3.0',
        f"tandem_test_use_ratio{{{model}}} 0.25",
        f'tandem_test_wait_seconds_bucket{{le="0.1",{model}}} 2.0',
        f'tandem_test_wait_seconds_bucket{{le="1.0",{model}}} 5.0',
        f'tandem_test_wait_seconds_bucket{{le="+Inf",{model}}} 6.0',
        f"tandem_test_wait_seconds_count{{{model}}} 6.0",
        f"tandem_test_wait_seconds_sum{{{model}}} 8.65",
    ]
    assert "process_cpu_seconds_total" in text and "tandem_test_nothing" not in text


def test_prometheus_takes_the_page() -> None:
    with MetricsServer(some_metrics(), "127.0.0.1:0") as server:
        text = page(server.address)
    checked = run_promtool("check", "metrics", stdin=text)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_nobody_records_is_read_when_asked() -> None:
    metrics = Metrics()
    depth = metrics.gauge("tandem.test.depth", "", "How deep.").of()
    queue = [1, 2]
    metrics.before_reading(lambda: depth.set(len(queue)))
    with MetricsServer(metrics, "127.0.0.1:0") as server:
        assert "tandem_test_depth 2.0" in page(server.address)
        queue.append(3)
        assert "tandem_test_depth 3.0" in page(server.address)


@pytest.mark.parametrize("listen", ["9464", "localhost:http", "127.0.0.1:70000", "192.0.2.1:0"])
def test_an_address_that_cannot_be_had_is_refused(listen: str) -> None:
    with pytest.raises(SettingsError, match="metrics_listen"):
        MetricsServer(Metrics(), listen)


def test_an_address_is_taken_once() -> None:
    with MetricsServer(Metrics(), "127.0.0.1:0") as server, pytest.raises(SettingsError, match="in use"):
        MetricsServer(Metrics(), server.address)


def test_labels_are_a_closed_set() -> None:
    family = Metrics().counter("tandem.test.open", "", "Grows with its callers.", ("who",))
    with pytest.raises(AssertionError, match=r"tandem\.test\.open"):
        for number in range(MAX_SERIES + 1):
            family.of(str(number))


def test_a_name_is_given_once() -> None:
    metrics = Metrics()
    metrics.gauge("tandem.test.depth", "", "How deep.")
    with pytest.raises(AssertionError):
        metrics.counter("tandem.test.depth", "", "How deep.")


@contextmanager
def collector() -> Iterator[tuple[str, "SimpleQueue[Any]"]]:
    """Run an OTLP collector; what it is sent lands in the queue."""
    service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
    received: SimpleQueue[Any] = SimpleQueue()

    def export(request: Any, context: object) -> Any:
        received.put(request)
        return service.ExportMetricsServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=service.ExportMetricsServiceRequest.FromString,
        response_serializer=service.ExportMetricsServiceResponse.SerializeToString,
    )
    name = "opentelemetry.proto.collector.metrics.v1.MetricsService"
    with futures.ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"http://127.0.0.1:{port}", received
        finally:
            server.stop(None).wait()


def test_a_collector_is_pushed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with collector() as (endpoint, received):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=gateway-0")
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        with exported(some_metrics(), "", "tandem-test", environ):
            pass  # an interval of an hour: what comes is sent at the end
        (resource,) = received.get(timeout=WAIT_S).resource_metrics
    about = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert (about["service.name"], about["k8s.pod.name"]) == ("tandem-test", "gateway-0")
    (scope,) = resource.scope_metrics
    metrics = {metric.name: metric for metric in scope.metrics}
    assert set(metrics) == {"tandem.test.tokens", "tandem.test.use", "tandem.test.wait"}
    (tokens,) = metrics["tandem.test.tokens"].sum.data_points
    assert tokens.as_double == 3 or tokens.as_int == 3
    assert metrics["tandem.test.tokens"].sum.is_monotonic
    assert {a.key: a.value.string_value for a in tokens.attributes} == {"kind": "new", "model_name": 'a "model"\n'}
    (wait,) = metrics["tandem.test.wait"].histogram.data_points
    assert (wait.count, wait.sum, list(wait.bucket_counts), list(wait.explicit_bounds)) == (
        6,
        8.65,
        [2, 3, 1],
        [0.1, 1.0],
    )
    assert metrics["tandem.test.wait"].unit == "s"


def test_nobody_reads_unless_told() -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4317"}
    assert is_read("127.0.0.1:0", {}) and is_read("", endpoint)
    assert not is_read("", {})
    assert not is_read("", {**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not is_read("", {**endpoint, "OTEL_METRICS_EXPORTER": "none"})


def test_what_is_not_asked_for_is_not_imported() -> None:
    code = (
        "import sys\n"
        "from common.telemetry.metrics import Metrics\n"
        "from common.telemetry.metrics_export import exported\n"
        "with exported(Metrics(), '', 'tandem-test', {}):\n"
        "    print([name for name in sys.modules if name.startswith(('prometheus_client', 'opentelemetry.sdk'))])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert ran.stdout.strip() == "[]"
