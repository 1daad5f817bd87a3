"""Does the chart render, with every Helm, preset and Kubernetes version, to objects that Kubernetes knows?"""

import warnings
from typing import Any

import pytest

from tests.support.chart import CHART, PRESETS, Object, helms, needed_helm, rendered, run_helm

KUBE_VERSIONS = ("1.30", "1.37")
# Kinds of other projects, and the fields of theirs that we write. Their schemas are not at hand.
FOREIGN_FIELDS = {
    "LeaderWorkerSet": {
        "spec": {"replicas", "networkConfig", "rolloutStrategy", "leaderWorkerTemplate"},
        "spec.networkConfig": {"subdomainPolicy"},
        "spec.rolloutStrategy": {"type", "rollingUpdateConfiguration"},
        "spec.rolloutStrategy.rollingUpdateConfiguration": {"maxUnavailable", "maxSurge"},
        "spec.leaderWorkerTemplate": {"size", "restartPolicy", "workerTemplate"},
    },
    "ScaledObject": {
        "spec": {
            "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "cooldownPeriod", "triggers", "advanced"
        },
        "spec.scaleTargetRef": {"apiVersion", "kind", "name"},
        "spec.advanced": {"horizontalPodAutoscalerConfig"},
    },
    "Certificate": {
        "spec": {"secretName", "issuerRef", "privateKey", "usages", "dnsNames"},
        "spec.issuerRef": {"name", "kind", "group"},
        "spec.privateKey": {"algorithm", "size", "encoding", "rotationPolicy"},
    },
    "PodMonitor": {"spec": {"selector", "podTargetLabels", "podMetricsEndpoints"}, "spec.selector": {"matchLabels"}},
    "PrometheusRule": {"spec": {"groups"}},
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_lint(preset: str) -> None:
    needed_helm()
    for helm in helms():
        result = run_helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{preset}.yaml"), helm=helm)
        assert result.returncode == 0, result.stdout + result.stderr


def test_the_default_values_render() -> None:
    result = run_helm("template", "r", str(CHART))
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("preset", PRESETS)
def test_every_helm_renders_the_same(preset: str) -> None:
    if len(helms()) < 2:
        pytest.skip("one helm only: `make helm` fetches two")
    first, *others = (sorted_objects(rendered(preset, helm=helm)) for helm in helms())
    assert all(other == first for other in others)


def sorted_objects(objects: tuple[Object, ...]) -> list[Object]:
    return sorted(objects, key=lambda o: (o["kind"], o["metadata"]["name"]))


@pytest.mark.parametrize("kube_version", KUBE_VERSIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_kubernetes_knows_every_field(preset: str, kube_version: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        validator = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate: `make helm` fetches it")
        for o in rendered(preset, kube_version=f"{kube_version}.0"):
            if o["kind"] in FOREIGN_FIELDS:
                check_foreign(o)
            else:
                validator.validate(o, kube_version, strict=True)


def check_foreign(o: Object) -> None:
    for path, fields in FOREIGN_FIELDS[o["kind"]].items():
        part: Any = o
        for name in path.split("."):
            part = part[name]
        assert set(part) == fields, path


@pytest.mark.parametrize("preset", PRESETS)
def test_names_are_unique_and_fit_the_dns(preset: str) -> None:
    objects = rendered(preset, 'fullnameOverride="a-name-that-is-far-too-long-for-any-label-in-the-dns"')
    names = [(o["kind"], o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names))
    assert all(len(name) <= 57 for _, name in names)  # 63 less what controllers add
