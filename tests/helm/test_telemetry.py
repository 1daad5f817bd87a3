"""Do all processes send their traces where the values say, and may they?"""

import pytest

from tests.support.chart import component, container, find, pod_templates, rendered, template

SERVICES = ("gateway", "verifier", "draft")
ENDPOINT = 'telemetry.otlpEndpoint="http://collector.monitoring:4317"'


def variables(pod: dict[str, object]) -> dict[str, str]:
    """Return a pod's environment."""
    return {entry["name"]: entry.get("value", "") for entry in container(pod).get("env", [])}


def test_by_default_nothing_is_sent_and_nothing_more_may_be() -> None:
    objects = rendered("nvidia")
    for _, pod in pod_templates(objects):
        assert not any(name.startswith("OTEL_") for name in variables(pod))
    assert "4317" not in str(objects)


@pytest.mark.parametrize("preset", ["cpu", "nvidia", "lws", "dns"])
def test_every_process_sends_and_may(preset: str) -> None:
    collector = 'telemetry.collector=[{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]'
    objects = rendered(
        preset, ENDPOINT, collector, "telemetry.sampleRatio=0.25", 'logFormat="json"', "draft.enabled=true"
    )
    seen = set()
    for _, pod in pod_templates(objects):
        if (service := component(pod)) not in SERVICES:
            continue
        seen.add(service)
        found = variables(pod)
        assert found["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.monitoring:4317"
        assert (found["OTEL_TRACES_SAMPLER"], found["OTEL_TRACES_SAMPLER_ARG"]) == ("parentbased_traceidratio", "0.25")
        assert found["TANDEM_LOG_FORMAT"] == "json"
        egress = find(objects, "NetworkPolicy", f"-{service}")["spec"]["egress"]
        rule = {
            "to": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "ports": [{"protocol": "TCP", "port": 4317}],
        }
        assert rule in egress, service
    assert seen == set(SERVICES)


@pytest.mark.parametrize("endpoint", ["collector:4317", "http://collector", "http://collector:4317/v1/traces"])
def test_an_endpoint_without_scheme_or_port_is_refused(endpoint: str) -> None:
    result = template("cpu", f'telemetry.otlpEndpoint="{endpoint}"')
    assert result.returncode != 0 and "otlpEndpoint" in result.stderr
