"""Who reads a process's metrics: a Prometheus that pulls them, a collector that is pushed to, both, or nobody."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from common.errors import SettingsError
from common.telemetry.metrics import Metrics

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
log = logging.getLogger(__name__)


def is_pushed(environ: Mapping[str, str]) -> bool:
    """Whether the environment names a collector for metrics."""
    return (
        any(environ.get(name) for name in ENDPOINTS)
        and environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and environ.get("OTEL_METRICS_EXPORTER", "otlp").lower() != "none"
    )


def is_read(listen: str, environ: Mapping[str, str]) -> bool:
    """Whether anybody reads metrics; where not, none need be recorded."""
    return bool(listen) or is_pushed(environ)


@contextmanager
def exported(metrics: Metrics, listen: str, service_name: str, environ: Mapping[str, str]) -> Iterator[None]:
    """Let `metrics` be read as long as the context lasts. Nothing is imported or started where nobody reads them.

    `listen` is the address for Prometheus, host:port, empty for none. Raises SettingsError when it cannot be had.
    """
    with ExitStack() as stack:
        if listen:
            from common.telemetry.metrics_http import MetricsServer

            address = stack.enter_context(MetricsServer(metrics, listen)).address
            log.info("metrics on http://%s/metrics", address)
        if is_pushed(environ):
            try:
                from common.telemetry.metrics_otlp import MetricsPush
            except ModuleNotFoundError as error:
                raise SettingsError(
                    f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but there is no {error.name}: pip install 'tandem[otlp]'"
                ) from error
            stack.enter_context(MetricsPush(metrics, service_name, environ))
        yield
