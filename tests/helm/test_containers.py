"""What container files promise, as far as it shows without building them."""

import re

import pytest

from tests.support.chart import ROOT, container, find, rendered

USER = "65532"


def instructions(name: str) -> list[tuple[str, str]]:
    """Return a file's instructions in order, continued lines joined."""
    text = (ROOT / "containers" / f"{name}.Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


@pytest.mark.parametrize("name", ("gateway", "worker"))
def test_the_process_is_not_root(name: str) -> None:
    steps = instructions(name)
    last_user = max(index for index, (word, _) in enumerate(steps) if word == "USER")
    assert steps[last_user][1] == f"{USER}:{USER}"
    assert not [rest for word, rest in steps[last_user:] if word in ("RUN", "COPY", "ADD")]
    pods = find(rendered("cpu"), "Deployment", "-gateway-0")["spec"]["template"]["spec"]["securityContext"]
    assert str(pods["runAsUser"]) == USER


def test_the_gateway_has_no_torch() -> None:
    steps = instructions("gateway")
    copied = {source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]}
    assert not {"shard_worker", "draft_worker"} & copied
    installs = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert installs and not any("worker" in line or "torch" in line for line in installs)


def test_everything_copied_is_there_and_sent() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name in ("gateway", "worker"):
        for word, rest in instructions(name):
            if word == "COPY" and not rest.startswith("--from"):
                sources = set(rest.split()[:-1])
                assert sources <= sent
                assert all((ROOT / source).exists() for source in sources)


def test_models_lie_where_the_chart_looks_for_them() -> None:
    gateway = container(find(rendered("amd"), "Deployment", "-gateway-0")["spec"]["template"])
    home = {variable["name"]: variable["value"] for variable in gateway["env"]}["TANDEM_HOME"]
    for name in ("gateway", "worker"):
        assert any(word == "ENV" and f"TANDEM_HOME={home}" in rest for word, rest in instructions(name))
    assert instructions("with-model")[-1] == ("COPY", f"--chown={USER}:{USER} models {home}/models")
