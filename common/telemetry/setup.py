"""Does this process make traces? The OpenTelemetry project's own variables say so; without an endpoint it does not.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from common.errors import SettingsError
from common.telemetry.tracer import OFF, Attributes, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORTERS = {
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
}
PACKAGES = {"grpc": "'tandem[otlp]'", "http/protobuf": "opentelemetry-exporter-otlp-proto-http"}


def set_up_tracing(
    service: str, attributes: Attributes | None = None, environ: Mapping[str, str] = os.environ
) -> Tracer:
    """Return what makes this process's spans. `service` is its service.name unless OTEL_* variables give another.

    The SDK is imported only where an endpoint is set, and not in a process for which OTEL_SDK_DISABLED is true or
    OTEL_TRACES_EXPORTER is none. Sampler, batches, headers and certificates are the SDK's own to read.

    Raises SettingsError when the exporter that is asked for is unknown or not installed.
    """
    if not is_wanted(environ):
        return OFF
    exporter = _exporter(environ)
    from common.telemetry.sdk import SdkTracer

    return SdkTracer(service, attributes or {}, exporter)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether spans shall be made."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    match environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp":
        case "none":
            return False
        case "console":
            return True
        case "otlp":
            return bool(_otlp("ENDPOINT", environ))
        case name:
            raise SettingsError(f"OTEL_TRACES_EXPORTER: expected otlp, console or none (is {name!r})")


def _exporter(environ: Mapping[str, str]) -> "SpanExporter":
    if environ.get("OTEL_TRACES_EXPORTER", "").strip() == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    protocol = _otlp("PROTOCOL", environ) or "grpc"
    if protocol not in EXPORTERS:
        raise SettingsError(f"OTEL_EXPORTER_OTLP_PROTOCOL: expected {' or '.join(EXPORTERS)} (is {protocol!r})")
    try:
        module = import_module(EXPORTERS[protocol])
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"an OTLP endpoint is set, and {error.name} is missing: pip install {PACKAGES[protocol]}"
        ) from error
    exporter: SpanExporter = module.OTLPSpanExporter()
    return exporter


def _otlp(name: str, environ: Mapping[str, str]) -> str:
    """Return the variable for traces alone, or else the one for all signals."""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        if value := environ.get(variable, "").strip():
            return value
    return ""
