"""What schemas miss: security contexts, probes, grace periods, selectors and sizes of every pod."""

import pytest
import yaml

from common.health import LIVE
from tests.support.chart import PRESETS, Object, component, container, find, pod_templates, rendered, settings_files

UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}
SERVICES = ("gateway", "verifier", "draft")


def bytes_of(quantity: str) -> int:
    return int(float(quantity[:-2]) * UNITS[quantity[-2:]])


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_pod_is_restricted_and_holds_no_token(preset: str) -> None:
    for name, pod in pod_templates(rendered(preset)):
        spec = pod["spec"]
        watches = preset == "kubernetes" and component(pod) == "gateway"
        assert spec["automountServiceAccountToken"] is watches, name
        assert ("serviceAccountName" in spec) is watches, name
        assert spec["enableServiceLinks"] is False, name
        assert not {"hostNetwork", "hostIPC", "hostPID"} & set(spec), name
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers(pod):
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert "memory" in one["resources"]["limits"] and "cpu" in one["resources"]["requests"]
            mounted = {mount["mountPath"]: mount["name"] for mount in one["volumeMounts"]}
            assert "/tmp" in mounted and set(mounted.values()) <= {v["name"] for v in spec["volumes"]}
        main = container(pod)
        assert all(m["readOnly"] for m in main["volumeMounts"] if m["name"] in ("models", "config")), name


@pytest.mark.parametrize("preset", PRESETS)
def test_probes_ask_the_port_that_the_service_listens_on(preset: str) -> None:
    objects = rendered(preset)
    files = {"gateway": "gateway.yaml", "verifier": "ranks.yaml", "draft": "draft.yaml"}
    for name, pod in pod_templates(objects):
        if component(pod) not in SERVICES:
            continue
        main = container(pod)
        settings = yaml.safe_load(settings_files(objects, component(pod))[files[component(pod)]])
        first = settings["port"] if "port" in settings else int(settings["listen"].rpartition(":")[2])
        port = settings["health_port"] if "port" in settings else int(settings["health_listen"].rpartition(":")[2])
        ports = {one["name"]: one["containerPort"] for one in main["ports"]}
        assert main["ports"][0]["containerPort"] == first and ports["health"] == port, name
        assert len(set(ports.values())) == len(ports), name
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert main[probe]["grpc"]["port"] == port, name
        assert main["livenessProbe"]["grpc"]["service"] == LIVE
        assert main["readinessProbe"]["grpc"].get("service", "") == ""
        # A gateway waits for ranks that load: it has started before they have.
        assert main["startupProbe"]["grpc"]["service"] == (LIVE if component(pod) == "gateway" else "")


def test_loading_may_take_as_long_as_is_said() -> None:
    objects = rendered("cpu", "verifier.startupMinutes=7")
    probe = container(find(objects, "Deployment", "-verifier-0")["spec"]["template"])["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 7 * 60
    assert find(objects, "Deployment", "-verifier-0")["spec"]["progressDeadlineSeconds"] > 7 * 60


@pytest.mark.parametrize("preset", PRESETS)
def test_the_grace_period_covers_the_sleep_and_the_drain(preset: str) -> None:
    objects = rendered(preset, "gateway.preStopSleepSeconds=17", "gateway.settings.drain_budget_s=90.5")
    files = {"gateway": "gateway.yaml", "verifier": "shard.yaml", "draft": "draft.yaml"}
    seen = set()
    for name, pod in pod_templates(objects):
        if (service := component(pod)) not in SERVICES:
            continue
        sleep_s = container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain_s = yaml.safe_load(settings_files(objects, service)[files[service]])["drain_budget_s"]
        # What is left is for `tandem serve ranks`, which ends ranks that do not drain in time, and for the kubelet.
        assert pod["spec"]["terminationGracePeriodSeconds"] - sleep_s - drain_s >= 29, name
        seen.add((service, sleep_s, drain_s))
    assert ("gateway", 17, 90.5) in seen


@pytest.mark.parametrize("preset", PRESETS)
def test_every_selector_finds_a_pod(preset: str) -> None:
    objects = rendered(preset)
    labels = [pod["metadata"]["labels"] for _, pod in pod_templates(objects)]
    selectors = []
    for o in objects:
        spec = o.get("spec", {})
        if o["kind"] == "Service":
            selectors.append(spec["selector"])
        elif o["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            selectors.append(spec["selector"]["matchLabels"])
        elif o["kind"] == "NetworkPolicy":
            rules = [*(spec.get("ingress") or []), *(spec.get("egress") or [])]
            peers = [peer for rule in rules for peer in rule.get("from", rule.get("to", []))]
            selectors += [spec["podSelector"]["matchLabels"]]
            selectors += [p["podSelector"]["matchLabels"] for p in peers if p.get("podSelector")]
    assert selectors
    for selector in selectors:
        assert any(selector.items() <= found.items() for found in labels), selector


@pytest.mark.parametrize("preset", PRESETS)
def test_services_target_ports_that_are_there(preset: str) -> None:
    objects = rendered(preset)
    pods = [pod for _, pod in pod_templates(objects)]
    for service in (o for o in objects if o["kind"] == "Service"):
        selector = service["spec"]["selector"].items()
        found = [pod for pod in pods if selector <= pod["metadata"]["labels"].items()]
        for pod in found:
            names = {port["name"] for port in container(pod)["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= names


@pytest.mark.parametrize("preset", PRESETS)
def test_shared_memory_fits_the_memory_limit(preset: str) -> None:
    for _, pod in pod_templates(rendered(preset)):
        for volume in pod["spec"]["volumes"]:
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                limit = container(pod)["resources"]["limits"]["memory"]
                assert bytes_of(volume["emptyDir"]["sizeLimit"]) < bytes_of(limit)


def test_no_pod_may_speak_unless_a_policy_says_so() -> None:
    objects = rendered("amd")
    policies = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "NetworkPolicy"}
    deny = policies["r-tandem-default-deny"]
    assert deny["policyTypes"] == ["Ingress", "Egress"] and "ingress" not in deny
    assert [port["port"] for rule in deny["egress"] for port in rule["ports"]] == [53, 53]
    # On one node ranks need nobody, and the model lies on a claim.
    assert not policies["r-tandem-verifier"]["egress"]
    (ingress,) = policies["r-tandem-verifier"]["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": 50060, "endPort": 50061}]


def test_a_group_over_several_nodes_may_use_any_port_among_its_pods() -> None:
    for preset in ("lws", "statefulset"):
        policy = find(rendered(preset), "NetworkPolicy", "-verifier")["spec"]
        assert [rule for rule in policy["egress"] if "ports" not in rule]
        assert [rule for rule in policy["ingress"] if "ports" not in rule]


@pytest.mark.parametrize(
    "preset, resource, tag",
    [("nvidia", "nvidia.com/gpu", "-cuda"), ("amd", "amd.com/gpu", "-rocm"), ("cpu", "", "-cpu")],
)
def test_the_accelerator_decides_resource_image_and_device(preset: str, resource: str, tag: str) -> None:
    objects = rendered(preset)
    pod = find(objects, "Deployment", "-verifier-0")["spec"]["template"]
    main, ranks = container(pod), yaml.safe_load(settings_files(objects, "verifier")["ranks.yaml"])
    gpus = {name: count for name, count in main["resources"]["limits"].items() if "/" in name}
    assert gpus == ({resource: ranks["ranks_per_host"]} if resource else {})
    assert main["image"].endswith(tag)
    assert ranks["device"] == ("cuda" if resource else "cpu")
    assert [t["key"] for t in pod["spec"].get("tolerations", [])] == ([resource] if resource else [])
