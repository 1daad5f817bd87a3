"""Prometheus pull: a tiny HTTP server whose every page is the process's metrics."""

from collections.abc import Iterator
from math import inf, isinf
from typing import Any, Self

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from common.errors import SettingsError
from common.telemetry.metrics import AnyFamily, Histogram, Kind, Metrics

CLIENT_TIMEOUT_S = 10.0


class MetricsServer:
    """Answers GET on `address` from a thread of its own until it is closed."""

    def __init__(self, metrics: Metrics, listen: str) -> None:
        """`listen` is host:port; port 0 takes a free one. Raises SettingsError when it cannot be listened on."""
        host, _, port = listen.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError(f"metrics_listen {listen}: expected host:port")
        registry = CollectorRegistry()
        registry.register(_Figures(metrics))
        ProcessCollector(registry=registry)
        try:
            self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SettingsError(f"metrics_listen {listen}: {reason}") from error
        # A client that neither asks nor reads may not keep a thread for ever.
        handler: Any = self._server.RequestHandlerClass
        self._server.RequestHandlerClass = type("Handler", (handler,), {"timeout": CLIENT_TIMEOUT_S})
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Figures(Collector):
    """Our families as prometheus_client's."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has a series."""
        constant = self._metrics.constant_labels
        for family in self._metrics.read():
            if family.series:
                yield _metric(family, tuple(constant), tuple(constant.values()))

    def describe(self) -> list[Metric]:
        """Nothing: only a first reading would know the series."""
        return []


def _metric(family: AnyFamily, names: tuple[str, ...], values: tuple[str, ...]) -> Metric:
    labels = [*names, *family.labels]
    name, help_text = family.prometheus_name, family.help
    if family.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, help_text, labels=labels)
        for own, series in family.items():
            assert isinstance(series, Histogram)
            histogram.add_metric([*values, *own], cumulative(series), series.total)
        return histogram
    counter = family.kind is Kind.COUNTER
    plain = (CounterMetricFamily if counter else GaugeMetricFamily)(name, help_text, labels=labels)
    for own, series in family.items():
        assert not isinstance(series, Histogram)
        plain.add_metric([*values, *own], series.value)
    return plain


def cumulative(series: Histogram) -> list[tuple[str, float]]:
    """Return (upper bound, number of values at most so large), the last bound being +Inf."""
    counts, so_far = list(series.counts), 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*series.bounds, inf), counts, strict=True):
        so_far += count
        buckets.append(("+Inf" if isinf(bound) else repr(float(bound)), so_far))
    return buckets
