"""Would the services take what the chart gives them? Files, flags and variables go through their own readers."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from common.cli.main import tandem
from common.service_settings import ServiceSettings
from common.settings import Settings
from common.settings_sources import resolve
from draft_worker.settings import DraftSettings
from gateway.settings import GatewaySettings
from shard_worker.rank_host import plan_ranks
from shard_worker.rank_host_settings import RankHostSettings
from shard_worker.settings import ShardSettings
from tests.support.chart import (
    PRESETS,
    STATIC_PRESETS,
    Object,
    component,
    container,
    find,
    pod_templates,
    rendered,
    schema,
    settings_files,
)

CLASSES: Mapping[str, tuple[str, type[Settings]]] = {
    "gateway.yaml": ("TANDEM_GATEWAY", GatewaySettings),
    "ranks.yaml": ("TANDEM_RANKS", RankHostSettings),
    "shard.yaml": ("TANDEM_SHARD", ShardSettings),
    "draft.yaml": ("TANDEM_DRAFT", DraftSettings),
}
SECURITY = set(ServiceSettings.model_fields) - {"stall_timeout_s"}
GATEWAY_SECURITY = {
    *("tenants", "allow_anonymous", "rank_tls_name", "draft_tls_name"),
    *("worker_tls_cert", "worker_tls_key", "worker_tls_ca"),
}
# What the chart sets itself and therefore does not take as a value.
OURS: Mapping[str, tuple[type[Settings], set[str]]] = {
    "gateway": (
        GatewaySettings,
        {"model", "ranks", "groups", "listen", "drafts", "kubernetes_api", "kubernetes_credentials", "metrics_listen"}
        | {*SECURITY, *GATEWAY_SECURITY},
    ),
    "verifier": (ShardSettings, {"model", "rank", "tp", "rendezvous", "listen", "device", *SECURITY, "metrics_listen"}),
    "draft": (DraftSettings, {"proposer", "model", "listen", "device", *SECURITY, "metrics_listen"}),
}


def environ_of(pod: Object, **fields: str) -> dict[str, str]:
    """Return a container's variables as Kubernetes would set them; `fields` answers what comes from the pod itself."""
    environ: dict[str, str] = {}
    for variable in container(pod)["env"]:
        value = fields.get(variable["name"], variable.get("value"))
        assert value is not None, variable
        for name, known in {**fields, **environ}.items():
            value = value.replace(f"$({name})", known)
        environ[variable["name"]] = value
    return environ


@pytest.mark.parametrize("service", OURS)
def test_the_schema_knows_exactly_the_settings_that_are_free(service: str) -> None:
    cls, ours = OURS[service]
    section = schema()["properties"][service]["properties"]["settings"]
    assert section["additionalProperties"] is False
    assert set(section["properties"]) == set(cls.model_fields) - ours
    for name, field in cls.model_json_schema()["properties"].items():
        if name not in ours:  # a field that may be None has its type first
            kind = field.get("anyOf", [field])[0]
            bounds = ("type", "enum", "minimum", "maximum", "exclusiveMinimum")
            assert section["properties"][name] == {key: kind[key] for key in bounds if key in kind}, name


@pytest.mark.parametrize("preset", PRESETS)
def test_every_settings_file_is_taken(preset: str, tmp_path: Path) -> None:
    objects = rendered(preset)
    services = ("gateway", "verifier", *(["draft"] if preset != "statefulset" else []))
    for service in services:
        for name, text in settings_files(objects, service).items():
            path = tmp_path / name
            path.write_text(text)
            prefix, cls = CLASSES[name]
            flags = {"ranks": ("a:1",)} if name == "gateway.yaml" else {}
            resolve(cls, prefix, flags, {}, path)


@pytest.mark.parametrize("preset", STATIC_PRESETS)
def test_gateways_dial_the_ranks_that_pods_start(preset: str, tmp_path: Path) -> None:
    objects = rendered(preset)
    (tmp_path / "ranks.yaml").write_text(settings_files(objects, "verifier")["ranks.yaml"])
    (tmp_path / "shard.yaml").write_text(settings_files(objects, "verifier")["shard.yaml"])
    for group in range(2 if preset != "cpu" and preset != "amd" else 1):
        args = container(find(objects, "Deployment", f"-gateway-{group}")["spec"]["template"])["args"]
        dialled = args[args.index("--ranks") + 1].split(",")
        if preset == "lws":
            pod = find(objects, "LeaderWorkerSet", "")["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        else:
            kind = "StatefulSet" if preset == "statefulset" else "Deployment"
            pod = find(objects, kind, f"-verifier-{group}")["spec"]["template"]
        nodes = 2 if preset in ("lws", "statefulset") else 1
        started = []
        for node in range(nodes):
            fields = {"GROUP_INDEX": str(group), "LWS_WORKER_INDEX": str(node)}
            if preset == "statefulset":
                fields = {"TANDEM_RANKS_HOST": str(node)}
            environ = environ_of(pod, **fields) | {"TANDEM_SHARD_CONFIG": str(tmp_path / "shard.yaml")}
            settings = resolve(RankHostSettings, "TANDEM_RANKS", {}, environ, tmp_path / "ranks.yaml")
            assert settings.host == node
            host = settings.hosts[node] if nodes > 1 else dialled[0].rpartition(":")[0]
            for command in plan_ranks(settings, environ, tmp_path).commands:
                line = command.command_line
                assert line[line.index("--tp") + 1] == str(len(dialled))
                started.append(f"{host}:{line[line.index('--listen') + 1].rpartition(':')[2]}")
        assert started == dialled


def test_threads_are_those_that_are_requested() -> None:
    """Without a number a process would take all cores of its node, whatever its pod may use."""
    given = settings_files(rendered("cpu"), "verifier")["shard.yaml"]
    assert yaml.safe_load(given)["threads"] == 1
    shared = rendered("cpu", 'verifier.resources.requests={"cpu": "6"}', "verifier.settings={}")  # by two ranks
    assert yaml.safe_load(settings_files(shared, "verifier")["shard.yaml"])["threads"] == 3
    drafts = rendered("cpu", 'draft.model="small"', 'draft.resources.requests.cpu="250m"')
    assert yaml.safe_load(settings_files(drafts, "draft")["draft.yaml"])["threads"] == 1
    assert "threads" not in yaml.safe_load(settings_files(rendered("amd"), "verifier")["shard.yaml"])


def test_ranks_wait_for_pods_that_pull_images(tmp_path: Path) -> None:
    for preset, waited_s in (("lws", 30 * 60.0), ("nvidia", None)):
        (tmp_path / "shard.yaml").write_text(settings_files(rendered(preset), "verifier")["shard.yaml"])
        settings = resolve(ShardSettings, "TANDEM_SHARD", {}, {}, tmp_path / "shard.yaml")
        assert settings.rendezvous_timeout_s == waited_s


@pytest.mark.parametrize("preset", PRESETS)
def test_every_flag_and_command_exists(preset: str) -> None:
    for name, pod in pod_templates(rendered(preset)):
        main = container(pod)
        program, *words = main["command"]
        assert program == "tandem"
        help_text = CliRunner().invoke(tandem, [*words, "--help"])
        assert help_text.exit_code == 0, name
        for flag in (argument for argument in main["args"] if argument.startswith("--")):
            assert f"{flag} " in help_text.output, f"{name}: {flag}"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_variable_of_ours_is_read(preset: str) -> None:
    known = {f"{prefix}_{field.upper()}" for prefix, cls in CLASSES.values() for field in cls.model_fields}
    known |= {"TANDEM_SHARD_CONFIG", "TANDEM_HOME", "TANDEM_LOG_LEVEL"}
    for name, pod in pod_templates(rendered(preset)):
        for variable in container(pod)["env"]:
            assert not variable["name"].startswith("TANDEM_") or variable["name"] in known, name
    assert any(component(pod) == "gateway" for _, pod in pod_templates(rendered(preset)))
