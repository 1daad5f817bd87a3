"""Are mistakes in values refused, by a message that names them? Wordings of the schema's refusals are Helm's own."""

import pytest

from tests.support.chart import schema, template

# What to set on top of a preset, and what the message must name.
MISTAKES = [
    ("cpu", ["verifier.nodes=2"], "verifier.nodes is 2"),
    ("cpu", ['model.source="claim"'], "model.existingClaim"),
    ("cpu", ['model.existingClaim="models"'], "model.existingClaim would be ignored"),
    ("cpu", ["model.claim.create=true"], "model.claim.create"),
    ("nvidia", ['model.existingClaim="models"'], "exclude each other"),
    ("amd", ['model.tokenSecret.name="hub"'], "model.tokenSecret"),
    ("cpu", ["gateway.settings.max_step_tokens=4096"], r"verifier.settings.max_step_tokens (2048)"),
    ("cpu", ["gateway.settings.max_draft_tokens=0"], "gateway.settings.max_draft_tokens 0"),
    ("cpu", ["draft.enabled=false", 'draft.model="small"'], "draft.enabled"),
    ("cpu", ["draft.enabled=false", 'draft.autoscaling.kind="hpa"'], "draft.enabled"),
    ("cpu", ['draft.accelerator="nvidia"'], "draft.accelerator nvidia"),
    ("cpu", ["draft.replicas=5"], "draft.maxReplicas (4)"),
    ("cpu", ["gateway.replicas=2"], "gateway.replicas 2 with discovery static"),
    ("dns", ['verifier.rollout={"maxUnavailable": 0}'], "verifier.rollout.maxSurge"),
    ("kubernetes", ["networkPolicy.apiServer=[]"], "networkPolicy.apiServer"),
    ("nvidia", ["draft.autoscaling.minReplicas=5"], "draft.autoscaling.minReplicas (5)"),
    ("amd", ["draft.autoscaling.metrics=[]"], "draft.autoscaling.metrics"),
    ("amd", ["draft.autoscaling.minReplicas=0"], "minReplicas 0 needs kind keda"),
    (
        "nvidia",
        ["draft.autoscaling.triggers=[]", 'draft.autoscaling.prometheus.serverAddress=""'],
        "autoscaling.triggers",
    ),
    ("nvidia", ["draft.autoscaling.triggers=[]"], "draft.autoscaling.minReplicas 0 with draft.autoscaling.prometheus"),
    ("nvidia", ["metrics.enabled=false"], "need metrics.enabled"),
    ("cpu", ["metrics.rules.enabled=true"], "need metrics.enabled"),
    ("amd", ["metrics.enabled=true", 'draft.autoscaling.prometheus.serverAddress="http://p:9090"'], "the kind is hpa"),
    ("cpu", ['tls.source="secrets"', 'tls.secrets={"gateway": "g", "verifier": "v"}'], "tls.secrets.draft"),
    ("cpu", ['tls.secrets.gateway="g"'], "tls.secrets are used by tls.source secrets only"),
    ("cpu", ['tls.source="certManager"'], "tls.issuer.name"),
    ("cpu", ['tls.issuer.name="ca"'], "tls.issuer is used by tls.source certManager only"),
    ("cpu", ['tls.clients=["a"]'], "tls.clients"),
    ("cpu", ['auth.testTokenSecret.name="t"'], "auth.tenantsSecret"),
]
# What the schema refuses; the last part of the name must be in the message.
TYPOS = [
    "verifer={}",
    'verifier.mod="lws"',
    "gateway.settings.max_runing=8",
    "verifier.settings.tp=2",
    'verifier.settings.dtype="float16"',
    "draft.settings.temperature_factor=0",
    'draft.autoscaling.kind="vpa"',
    'model.token="secret"',
    'accelerator="tpu"',
    'discovery="consul"',
    'verifier.shmSize="8GiB"',
    'verifier.resources.limits.memory="lots"',
    "pods.userId=0",
    'verifier.env=[{"name": "TANDEM_SHARD_TP", "value": "4"}]',
    "draft.replicas=-1",
    'logLevel="loud"',
    'tls.source="yes"',
    'tls.secret="s"',
    "gateway.settings.allow_plaintext=true",
    'auth.tokens=["secret"]',
    'metrics.podMonitor.interval="often"',
    "metrics.rules.vllm=true",
    "draft.autoscaling.prometheus.minAcceptance=2",
    'draft.autoscaling.prometheus.serverAddress="prometheus:9090"',
]


@pytest.mark.parametrize("preset, sets, named", MISTAKES)
def test_a_guard_names_the_mistake(preset: str, sets: list[str], named: str) -> None:
    result = template(preset, *sets)
    assert result.returncode != 0
    assert named in result.stderr


@pytest.mark.parametrize("setting", TYPOS)
def test_the_schema_refuses_what_it_does_not_know(setting: str) -> None:
    result = template("cpu", setting)
    assert result.returncode != 0
    assert "values.schema.json" in result.stderr or "schema" in result.stderr
    name = setting.partition("=")[0]
    assert name.rpartition(".")[2] in result.stderr


def test_every_object_of_the_schema_is_closed() -> None:
    open_on_purpose = {"global", "metrics[]", "triggers[]", "clients[]", "downloadFrom[]", "scrapers[]", "valueFrom"}
    open_on_purpose |= {"apiServer[]"}

    def check(name: str, node: dict[str, object]) -> None:
        properties = node.get("properties", {})
        assert isinstance(properties, dict)
        if node.get("type") == "object" and name not in open_on_purpose:
            assert "additionalProperties" in node, name
            assert not properties or node["additionalProperties"] is False, name
        for key, value in properties.items():
            check(key, value)
        if isinstance(items := node.get("items"), dict):
            check(f"{name}[]", items)

    whole = schema()
    check("values", whole)
    for name, definition in whole["$defs"].items():
        check(name, definition)
