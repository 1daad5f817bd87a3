"""OTLP push: the process's metrics, sent to a collector by OpenTelemetry's own exporter and environment variables.

On only where OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_METRICS_ENDPOINT says where to. Read as the SDK reads
them: OTEL_SDK_DISABLED, OTEL_METRICS_EXPORTER (none turns it off), OTEL_METRIC_EXPORT_INTERVAL (ms),
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES and all OTEL_EXPORTER_OTLP_*. The protocol is grpc.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Self

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Gauge as GaugeData
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common.telemetry.metrics import AnyFamily, Histogram, Kind, Metrics

INTERVAL_MS = 60_000
EXPORT_TIMEOUT_MS = 10_000
CUMULATIVE = AggregationTemporality.CUMULATIVE

log = logging.getLogger(__name__)


class MetricsPush:
    """Pushes from a thread of its own, every interval and once more when it is closed."""

    def __init__(self, metrics: Metrics, service_name: str, environ: Mapping[str, str]) -> None:
        """`service_name` is what OTEL_SERVICE_NAME replaces."""
        self._metrics = metrics
        self._interval_s = float(environ.get("OTEL_METRIC_EXPORT_INTERVAL") or INTERVAL_MS) / 1000
        self._resource = Resource.create()
        if str(self._resource.attributes["service.name"]).startswith("unknown_service"):
            self._resource = self._resource.merge(Resource({"service.name": service_name}))
        self._exporter = OTLPMetricExporter()
        self._began_ns = time.time_ns()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics push", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Push once more and end."""
        self._closed.set()
        self._thread.join()
        self._exporter.shutdown(timeout_millis=EXPORT_TIMEOUT_MS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            last = self._closed.wait(self._interval_s)
            try:
                self._exporter.export(self._data(), timeout_millis=EXPORT_TIMEOUT_MS)
            except Exception:
                log.exception("metrics could not be pushed")
            if last:
                return

    def _data(self) -> MetricsData:
        now_ns = time.time_ns()
        families = [family for family in self._metrics.read() if family.series]
        metrics = [_metric(f, self._metrics.constant_labels, self._began_ns, now_ns) for f in families]
        scope = ScopeMetrics(scope=InstrumentationScope("tandem"), metrics=metrics, schema_url="")
        return MetricsData([ResourceMetrics(resource=self._resource, scope_metrics=[scope], schema_url="")])


def _metric(family: AnyFamily, constant: Mapping[str, str], began_ns: int, now_ns: int) -> Metric:
    histograms: list[HistogramDataPoint] = []
    numbers: list[NumberDataPoint] = []
    for values, series in family.items():
        attributes = {**constant, **dict(zip(family.labels, values, strict=True))}
        if isinstance(series, Histogram):
            histograms.append(_distribution(series, attributes, began_ns, now_ns))
        else:
            numbers.append(NumberDataPoint(attributes, began_ns, now_ns, series.value))
    data: HistogramData | Sum | GaugeData
    if family.kind is Kind.HISTOGRAM:
        data = HistogramData(histograms, CUMULATIVE)
    elif family.kind is Kind.COUNTER:
        data = Sum(numbers, CUMULATIVE, is_monotonic=True)
    else:
        data = GaugeData(numbers)
    return Metric(name=family.name, description=family.help, unit=family.unit, data=data)


def _distribution(series: Histogram, attributes: dict[str, str], began_ns: int, now_ns: int) -> HistogramDataPoint:
    counts = list(series.counts)
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=sum(counts),
        sum=series.total,
        bucket_counts=counts,
        explicit_bounds=series.bounds,
        # Extremes of all time would say nothing; the SDK's own data point leaves them out so.
        min=float("inf"),
        max=float("-inf"),
    )
