"""Do gateways look for groups and drafts where their pods are, with no more rights than that takes?"""

from typing import Any

import pytest

from gateway.discovery.target import read_target
from gateway.settings import GatewaySettings
from tests.support.chart import Object, container, find, rendered

FOUND = ("dns", "kubernetes")


def flag(objects: tuple[Object, ...], name: str) -> str:
    """Return the value of a flag of the gateway's."""
    args = container(find(objects, "Deployment", "-gateway")["spec"]["template"])["args"]
    assert "--ranks" not in args
    return str(args[args.index(name) + 1])


def pods_behind(objects: tuple[Object, ...], text: str) -> Object:
    """Return the workload that a target leads to, through a headless Service with the port that it names."""
    target = read_target(text)
    assert target.namespace in ("llm", "")
    name, _, domain = target.name.partition(".")
    assert domain in ("llm.svc.cluster.local", "")
    service = next(o for o in objects if o["kind"] == "Service" and o["metadata"]["name"] == name)["spec"]
    assert service["clusterIP"] == "None" and "publishNotReadyAddresses" not in service
    (port,) = service["ports"]
    assert str(port["port"]) == target.port
    for o in objects:
        spec = o.get("spec", {})
        pod = spec.get("template") or spec.get("leaderWorkerTemplate", {}).get("workerTemplate")
        if pod and service["selector"].items() <= pod["metadata"]["labels"].items():
            first = container(pod)["ports"][0]
            assert (first["name"], first["containerPort"]) == (port["targetPort"], port["port"])
            return o
    raise AssertionError(f"no pod behind {text}")


@pytest.mark.parametrize("preset", FOUND)
def test_targets_lead_to_the_pods(preset: str) -> None:
    objects = rendered(preset)
    groups, drafts = flag(objects, "--groups"), flag(objects, "--drafts")
    settings = GatewaySettings(model="unused", groups=(groups,), drafts=(drafts,))  # type: ignore[arg-type]
    assert settings.groups == (groups,)
    assert pods_behind(objects, groups)["kind"] == ("LeaderWorkerSet" if preset == "dns" else "Deployment")
    assert pods_behind(objects, drafts)["kind"] == "Deployment"


def test_groups_of_several_hosts_are_found_behind_one_service() -> None:
    for mode in ("lws", "statefulset"):
        objects = rendered("dns", f'verifier.mode="{mode}"')
        pods_behind(objects, flag(objects, "--groups"))
    assert len([o for o in objects if o["kind"] == "StatefulSet"]) == 2


def test_there_are_as_many_gateways_as_groups_unless_said_otherwise() -> None:
    def numbers(*sets: str) -> tuple[int, ...]:
        objects = rendered("kubernetes", *sets)
        return tuple(find(objects, "Deployment", end)["spec"]["replicas"] for end in ("-gateway", "-verifier"))

    assert numbers() == (2, 3)
    assert numbers("gateway.replicas=0") == (3, 3)


def test_an_update_leaves_groups_to_serve() -> None:
    objects = rendered("kubernetes")
    assert find(objects, "Deployment", "-verifier")["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    # A gateway more than there are groups is never ready: an update would wait for it for ever.
    for name in ("-gateway", "-draft"):
        strategy = find(objects, "Deployment", name)["spec"]["strategy"]
        assert strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_only_gateways_that_watch_may_read_endpoint_slices() -> None:
    objects = rendered("kubernetes")
    account = find(objects, "ServiceAccount", "-gateway")
    assert account["automountServiceAccountToken"] is False
    role, binding = find(objects, "Role", "-gateway"), find(objects, "RoleBinding", "-gateway")
    assert role["rules"] == [
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
    ]
    name = account["metadata"]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": "llm"}]
    pod = find(objects, "Deployment", "-gateway")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == name
    for preset in ("dns", "cpu"):
        assert not [o for o in rendered(preset) if o["kind"] in ("ServiceAccount", "Role", "RoleBinding")]


def test_only_gateways_that_watch_may_reach_the_api_server() -> None:
    def api_rules(preset: str) -> dict[str, list[Any]]:
        policies = [o for o in rendered(preset) if o["kind"] == "NetworkPolicy"]
        ports = {
            p["metadata"]["name"]: [r for r in p["spec"].get("egress") or [] if "6443" in str(r)] for p in policies
        }
        return {name: rules for name, rules in ports.items() if rules}

    assert not api_rules("dns")
    ((name, (rule,)),) = api_rules("kubernetes").items()
    assert name == "r-tandem-gateway"
    assert rule["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0"}}] and [port["port"] for port in rule["ports"]] == [
        443,
        6443,
    ]


def test_drafts_may_be_more_than_any_list_names() -> None:
    objects = rendered("dns")
    assert find(objects, "Deployment", "-draft")["spec"]["replicas"] == 6
    scaled = rendered("kubernetes")
    assert "replicas" not in find(scaled, "Deployment", "-draft")["spec"]
    assert find(scaled, "HorizontalPodAutoscaler", "-draft")["spec"]["scaleTargetRef"]["kind"] == "Deployment"


def test_groups_and_gateways_lie_apart() -> None:
    for name in ("-gateway", "-verifier"):
        spec = find(rendered("kubernetes"), "Deployment", name)["spec"]
        spreads = spec["template"]["spec"]["topologySpreadConstraints"]
        assert [spread["topologyKey"] for spread in spreads] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]
        for spread in spreads:
            assert spread["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]
