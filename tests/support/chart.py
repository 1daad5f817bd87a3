"""The chart as Helm renders it, parsed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm"
STATIC_PRESETS = ("cpu", "nvidia", "amd", "lws", "statefulset")
PRESETS = (*STATIC_PRESETS, "dns", "kubernetes")
NAMESPACE, RELEASE = "llm", "r"

Object = dict[str, Any]


def helms() -> list[str]:
    """Return every Helm at hand: those beside this Python, else the one on the PATH."""
    beside = [str(path) for name in ("helm3", "helm4") if (path := Path(sys.executable).parent / name).exists()]
    on_path = shutil.which("helm")
    return beside or ([on_path] if on_path else [])


def needed_helm() -> str:
    """Return the newest Helm, or skip the test."""
    if not helms():
        pytest.skip("no helm binary: `make helm` fetches one")
    return helms()[-1]


def run_helm(*arguments: str, helm: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm; its exit code and output are the caller's to judge."""
    line = [helm or needed_helm(), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)


@cache
def rendered(preset: str, *sets: str, kube_version: str = "1.37.0", helm: str | None = None) -> tuple[Object, ...]:
    """Return the objects of a value file of helm/ci, with `sets` on top (NAME=VALUE, the value in JSON)."""
    result = template(preset, *sets, kube_version=kube_version, helm=helm)
    assert result.returncode == 0, result.stderr
    return tuple(document for document in yaml.safe_load_all(result.stdout) if document)


def template(
    preset: str, *sets: str, kube_version: str = "1.37.0", helm: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `helm template` with a value file of helm/ci."""
    arguments = ["template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--kube-version", kube_version]
    arguments += ["--values", str(CHART / "ci" / f"{preset}.yaml")]
    for pair in sets:
        arguments += ["--set-json", pair]
    return run_helm(*arguments, helm=helm)


def find(objects: tuple[Object, ...], kind: str, name: str) -> Object:
    """Return the one object of this kind whose name ends so."""
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"].endswith(name))
    return found


def pod_templates(objects: tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Yield the name and the pod template, {metadata, spec}, of every workload and of the test's pod."""
    for o in objects:
        name = f"{o['kind']} {o['metadata']['name']}"
        if o["kind"] in ("Deployment", "StatefulSet"):
            yield name, o["spec"]["template"]
        elif o["kind"] == "LeaderWorkerSet":
            yield name, o["spec"]["leaderWorkerTemplate"]["workerTemplate"]
        elif o["kind"] == "Pod":
            yield name, o


def component(pod: Object) -> str:
    """Return the component a pod template belongs to."""
    return str(pod["metadata"]["labels"]["app.kubernetes.io/component"])


def container(pod: Object) -> Object:
    """Return the one container of a pod template."""
    (only,) = pod["spec"]["containers"]
    found: Object = only
    return found


def settings_files(objects: tuple[Object, ...], component_name: str) -> dict[str, str]:
    """Return the files of a component's ConfigMap."""
    data: dict[str, str] = find(objects, "ConfigMap", f"-{component_name}")["data"]
    return data


def schema() -> Object:
    """Return the schema of the values."""
    parsed: Object = json.loads((CHART / "values.schema.json").read_text())
    return parsed
