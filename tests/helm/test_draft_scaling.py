"""Do drafts scale alone? Nothing but their own workload may change with their number."""

import yaml

from tests.support.chart import Object, container, find, rendered, settings_files


def changed(before: tuple[Object, ...], after: tuple[Object, ...]) -> set[str]:
    """Return kind and name of every object that is not the same."""
    by_name = [{f"{o['kind']} {o['metadata']['name']}": o for o in objects} for objects in (before, after)]
    return {name for name in by_name[0] | by_name[1] if by_name[0].get(name) != by_name[1].get(name)}


def test_more_drafts_change_no_other_object() -> None:
    assert changed(rendered("cpu"), rendered("cpu", "draft.replicas=3")) == {"StatefulSet r-tandem-draft"}
    assert changed(
        rendered("cpu"), rendered("cpu", "draft.nodeSelector={}", 'draft.resources.limits.memory="2Gi"')
    ) == {"StatefulSet r-tandem-draft"}


def test_gateways_know_every_draft_that_may_come() -> None:
    objects = rendered("cpu", "draft.replicas=1", "draft.maxReplicas=3")
    gateway = container(find(objects, "Deployment", "-gateway-0")["spec"]["template"])
    drafts = gateway["args"][gateway["args"].index("--drafts") + 1].split(",")
    service = find(objects, "StatefulSet", "-draft")["spec"]["serviceName"]
    domain = f"{service}.llm.svc.cluster.local:50070"
    assert drafts == [f"r-tandem-draft-{number}.{domain}" for number in range(3)]
    assert find(objects, "Service", "-draft")["spec"]["clusterIP"] == "None"
    assert yaml.safe_load(settings_files(objects, "gateway")["gateway.yaml"])["ngram"] is True


def test_without_drafts_nothing_of_them_is_left() -> None:
    objects = rendered("statefulset")
    assert not [o for o in objects if "draft" in o["metadata"]["name"]]
    assert "--drafts" not in container(find(objects, "Deployment", "-gateway-0")["spec"]["template"])["args"]


def test_an_autoscaler_owns_the_number() -> None:
    for preset, kind in (("amd", "HorizontalPodAutoscaler"), ("nvidia", "ScaledObject")):
        objects = rendered(preset)
        drafts = find(objects, "StatefulSet", "-draft")
        assert "replicas" not in drafts["spec"]
        target = find(objects, kind, "-draft")["spec"]["scaleTargetRef"]
        assert (target["apiVersion"], target["kind"], target["name"]) == (
            drafts["apiVersion"],
            drafts["kind"],
            drafts["metadata"]["name"],
        )


def test_drafts_have_their_own_model_device_and_place() -> None:
    objects = rendered("nvidia")
    spec = find(objects, "StatefulSet", "-draft")["spec"]["template"]["spec"]
    settings = yaml.safe_load(settings_files(objects, "draft")["draft.yaml"])
    assert settings["model"].endswith("/models/meta-llama--Llama-3.2-1B-Instruct")
    assert settings["device"] == "cuda:0" and spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["initContainers"][0]["command"] == ["tandem", "download", "meta-llama/Llama-3.2-1B-Instruct"]
    assert spec["nodeSelector"] == {"gpu-size": "small"}
    near = spec["affinity"]["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [term["podAffinityTerm"]["topologyKey"] for term in near] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    # Drafts of the text itself need neither GPU nor model, whatever the verifiers have.
    plain = find(rendered("lws"), "StatefulSet", "-draft")["spec"]["template"]["spec"]
    assert "initContainers" not in plain and "nvidia.com/gpu" not in plain["containers"][0]["resources"]["limits"]
    assert plain["containers"][0]["image"].endswith("-cpu")
