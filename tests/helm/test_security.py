"""What the chart mounts, names and allows, with and without TLS and tokens."""

import pytest
import yaml

from tests.support.chart import (
    NAMESPACE,
    PRESETS,
    Object,
    component,
    container,
    pod_templates,
    rendered,
    settings_files,
)

TLS = ('tls.source="certManager"', 'tls.issuer={"name": "ca", "kind": "ClusterIssuer"}')
AUTH = ('auth.tenantsSecret.name="tenants"', 'auth.testTokenSecret.name="token"')
FILES = {"gateway": "gateway.yaml", "verifier": "shard.yaml", "draft": "draft.yaml"}
SECRETS = 'tls.source="secrets"', 'tls.secrets={"gateway": "g", "verifier": "v", "draft": "d"}'


def settings_of(objects: tuple[Object, ...], name: str) -> Object:
    settings: Object = yaml.safe_load(settings_files(objects, name)[FILES[name]])
    return settings


def certificates(objects: tuple[Object, ...]) -> dict[str, Object]:
    return {o["spec"]["secretName"]: o["spec"] for o in objects if o["kind"] == "Certificate"}


def services(objects: tuple[Object, ...]) -> set[str]:
    return {component(pod) for _, pod in pod_templates(objects)} & set(FILES)


def names_of(objects: tuple[Object, ...], name: str) -> set[str]:
    (spec,) = (spec for secret, spec in certificates(objects).items() if f"-{name}-" in secret)
    return set(spec["dnsNames"])


@pytest.mark.parametrize("preset", PRESETS)
def test_each_side_expects_the_name_that_the_other_side_has(preset: str) -> None:
    objects = rendered(preset, *TLS)
    gateway = settings_of(objects, "gateway")
    assert gateway["rank_tls_name"] in names_of(objects, "verifier")
    for name in services(objects) - {"gateway"}:
        worker = settings_of(objects, name)
        assert worker["tls_ca"] and not worker.get("allow_plaintext")
        assert set(worker["tls_peers"]) <= names_of(objects, "gateway")
        assert not names_of(objects, name) & names_of(objects, "gateway")
    if "draft" in services(objects):
        assert gateway["draft_tls_name"] in names_of(objects, "draft")
    ranks = yaml.safe_load(settings_files(objects, "verifier")["ranks.yaml"])
    assert ranks["tls_name"] == gateway["rank_tls_name"]
    assert not gateway.get("allow_plaintext")
    assert all("client auth" in spec["usages"] for spec in certificates(objects).values())


@pytest.mark.parametrize("source", [TLS, SECRETS])
def test_every_file_that_settings_name_is_mounted(source: tuple[str, ...]) -> None:
    objects = rendered("cpu", *source, *AUTH)
    for name, pod in pod_templates(objects):
        mounts = {mount["mountPath"]: mount["name"] for mount in container(pod)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        used = {name for name in mounts.values() if name in ("tls", "auth")}
        assert used == ({"tls", "auth"} if component(pod) in ("gateway", "test") else {"tls"}), name
        assert all("subPath" not in mount for mount in container(pod)["volumeMounts"]), "those never change"
        for volume in used:
            assert volumes[volume]["secret"]["defaultMode"] == 0o440
        if component(pod) == "test":
            continue
        for setting, value in settings_of(objects, component(pod)).items():
            if isinstance(value, str) and value.startswith("/etc/"):
                assert value.rpartition("/")[0] in mounts, setting


def test_secrets_are_those_that_exist() -> None:
    objects = rendered("cpu", *SECRETS)
    assert not certificates(objects)
    found = {
        component(pod): volume["secret"]["secretName"]
        for _, pod in pod_templates(objects)
        for volume in pod["spec"]["volumes"]
        if volume["name"] == "tls"
    }
    assert found == {"gateway": "g", "verifier": "v", "draft": "d", "test": "g"}


def test_clients_with_certificates() -> None:
    objects = rendered("cpu", *TLS, 'tls.clients=["spiffe://x/app"]')
    gateway = settings_of(objects, "gateway")
    assert gateway["tls_peers"] == ["spiffe://x/app", f"r-tandem.{NAMESPACE}.svc.cluster.local"]
    assert gateway["tls_ca"] and not gateway.get("allow_anonymous")
    test = next(container(pod) for _, pod in pod_templates(objects) if component(pod) == "test")
    assert "--tls-cert" in test["args"] and "--token-file" not in test["args"]


def test_plaintext_and_anybody_are_said_in_words() -> None:
    objects = rendered("cpu")
    assert all(settings_of(objects, name)["allow_plaintext"] for name in FILES)
    assert settings_of(objects, "gateway")["allow_anonymous"] is True
    assert "allow_anonymous" not in settings_of(rendered("cpu", *AUTH), "gateway")


def test_no_test_without_a_token() -> None:
    objects = rendered("cpu", AUTH[0])
    assert all(component(pod) != "test" for _, pod in pod_templates(objects))
