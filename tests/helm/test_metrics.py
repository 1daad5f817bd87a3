"""Are the ports that Prometheus is sent to those that processes serve on, and do rules and dashboard hold together?"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings_sources import resolve
from shard_worker.rank_host import plan_ranks
from shard_worker.rank_host_settings import RankHostSettings
from tests.support.chart import CHART, Object, component, container, find, pod_templates, rendered, settings_files
from tests.support.promtool import run_promtool

RULES = CHART / "files" / "rules"


def metrics_ports(pod: Object) -> dict[str, int]:
    """Return the ports of a pod that are for metrics, by name."""
    ports = container(pod).get("ports", [])
    return {port["name"]: port["containerPort"] for port in ports if port["name"].startswith("metrics")}


def settings(objects: tuple[Object, ...], service: str, file: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(settings_files(objects, service)[file])
    return parsed


def test_by_default_nothing_is_served_and_nobody_is_told() -> None:
    objects = rendered("cpu")
    assert all(not metrics_ports(pod) for _, pod in pod_templates(objects))
    assert "metrics_listen" not in settings(objects, "gateway", "gateway.yaml")
    assert not {"PodMonitor", "PrometheusRule"} & {o["kind"] for o in objects}
    assert not [o for o in objects if o["metadata"]["name"].endswith(("-metrics", "-dashboard"))]


@pytest.mark.parametrize("preset", ["cpu", "nvidia", "amd", "lws", "statefulset"])
def test_processes_serve_where_prometheus_looks(preset: str, tmp_path: Path) -> None:
    objects = rendered(preset, "metrics.enabled=true", "metrics.podMonitor.enabled=true")
    monitor = find(objects, "PodMonitor", "")["spec"]
    looked_at = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    served: set[str] = set()
    for name, pod in pod_templates(objects):
        if component(pod) not in ("gateway", "verifier", "draft"):
            assert not metrics_ports(pod), name
            continue
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name
        ports = metrics_ports(pod)
        served |= set(ports)
        if component(pod) == "verifier":
            values = settings(objects, "verifier", "ranks.yaml")
            host = resolve(RankHostSettings, "TANDEM_RANKS", {}, {}, _written(tmp_path / "ranks.yaml", values))
            environ = {"TANDEM_SHARD_MODEL": "m", "TANDEM_SHARD_ALLOW_PLAINTEXT": "true"}
            lines = [command.command_line for command in plan_ranks(host, environ, tmp_path).commands]
            assert [line[line.index("--metrics-listen") + 1] for line in lines] == [
                f"0.0.0.0:{port}" for port in ports.values()
            ]
        else:
            service = component(pod)
            listen = settings(objects, service, f"{service}.yaml")["metrics_listen"]
            assert [listen] == [f"0.0.0.0:{port}" for port in ports.values()]
    assert served == looked_at
    (rule,) = find(objects, "NetworkPolicy", "-metrics")["spec"]["ingress"]
    (allowed,) = rule["ports"]
    assert (allowed["port"], allowed["endPort"]) == (9464, 9463 + len(looked_at))


def _written(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_rules_are_the_files() -> None:
    groups = find(rendered("nvidia"), "PrometheusRule", "")["spec"]["groups"]
    files = [yaml.safe_load((RULES / f"{name}.yaml").read_text())["groups"] for name in ("tandem", "alerts", "vllm")]
    assert groups == [group for file in files for group in file]
    fewer = find(rendered("nvidia", "metrics.rules.vllmNames=false"), "PrometheusRule", "")["spec"]["groups"]
    assert [group["name"] for group in fewer] == ["tandem", "tandem-alerts"]


def test_the_dashboard_is_the_file() -> None:
    config = find(rendered("nvidia"), "ConfigMap", "-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(config["data"]["tandem.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_prometheus_takes_the_rules() -> None:
    checked = run_promtool("check", "rules", *(str(path) for path in sorted(RULES.glob("*.yaml"))))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run_promtool("test", "rules", "rules_test.yaml", cwd=Path(__file__).parent)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_query_can_be_parsed(tmp_path: Path) -> None:
    dashboard = json.loads((CHART / "files" / "dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places) and all(panel["targets"] for panel in panels)
    queries = [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
    (trigger,) = (
        t for t in find(rendered("nvidia"), "ScaledObject", "-draft")["spec"]["triggers"] if t["type"] != "cron"
    )
    queries.append(trigger["metadata"]["query"])
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = _written(tmp_path / "queries.yaml", {"groups": [{"name": "queries", "rules": rules}]})
    checked = run_promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_drafts_are_scaled_on_our_metrics_gated_by_acceptance() -> None:
    objects = rendered("nvidia", "draft.autoscaling.prometheus.minAcceptance=0.35")
    triggers = find(objects, "ScaledObject", "-draft")["spec"]["triggers"]
    assert [trigger["type"] for trigger in triggers] == ["cron", "prometheus"]
    metadata = triggers[1]["metadata"]
    assert metadata["serverAddress"] == "http://prometheus.monitoring:9090"
    assert metadata["threshold"] == "0.6"
    assert 'tandem_draft_worker_busy_ratio{namespace="llm",app_kubernetes_io_instance="r"}' in metadata["query"]
    assert ">= bool 0.35" in metadata["query"]
