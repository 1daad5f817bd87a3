"""Do the rendered processes run? Those of the cpu preset are started here, by the chart's own commands, and stream."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from common.cli.main import tandem
from tests.support.certificates import Authority
from tests.support.chart import Object, container, find, pod_templates, rendered, settings_files
from tests.support.cluster import environment
from tests.support.tiny_model import TinyShape, make_tiny_model

START_S = 60.0
STOP_S = 30.0
CONFIG = "/etc/tandem/"
SECURE = (
    'tls.source="secrets"',
    'tls.secrets={"gateway": "g", "verifier": "v", "draft": "d"}',
    'auth={"tenantsSecret": {"name": "tenants"}, "testTokenSecret": {"name": "token"}}',
)
COMPONENTS = ("verifier", "draft", "gateway")


@pytest.mark.parametrize("sets", [(), SECURE], ids=["plaintext", "TLS and tokens"])
def test_the_rendered_processes_stream_and_stop(sets: tuple[str, ...], tmp_path: Path) -> None:
    objects = rendered("cpu", "draft.replicas=1", *sets)
    model = make_tiny_model(tmp_path / "tiny", TinyShape(context_length=256)).folder
    if sets:
        make_secrets(tmp_path)
    ports = free_ports()
    local = local_names(objects, model, tmp_path, ports)
    for component in COMPONENTS:
        own = [("50052", str(ports[f"{component} health"])), ("/etc/tandem-tls/", f"{tmp_path}/tls/{component}/")]
        for name, text in settings_files(objects, component).items():
            (tmp_path / name).write_text(replaced(text, [*own, *local]))
    pods = {
        "verifier": find(objects, "Deployment", "-verifier-0")["spec"]["template"],
        "draft": find(objects, "StatefulSet", "-draft")["spec"]["template"],
        "gateway": find(objects, "Deployment", "-gateway-0")["spec"]["template"],
    }
    test_pod = dict(pod_templates(objects))["Pod r-tandem-test"]
    with ExitStack() as stack:
        services = [stack.enter_context(started(pods[name], local, tmp_path / f"{name}.log")) for name in COMPONENTS]
        answer = first_answer(test_pod, local, services, tmp_path)
        assert answer.returncode == 0, answer.stderr + logs(tmp_path)
        assert answer.stdout.strip()
        until_s = time.monotonic() + START_S
        while not re.search("draft worker .* is there", (tmp_path / "gateway.log").read_text()):
            assert time.monotonic() < until_s, logs(tmp_path)
            time.sleep(0.1)
        for service in reversed(services):
            service.send_signal(signal.SIGTERM)
            assert service.wait(STOP_S) == 0, logs(tmp_path)


def local_names(
    objects: tuple[Object, ...], model: Path, folder: Path, ports: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Return what to replace by what, in order, so that the pods' processes run on this machine."""
    checkpoint = yaml.safe_load(settings_files(objects, "gateway")["gateway.yaml"])["model"]
    domain = "llm.svc.cluster.local"
    return [
        (checkpoint, str(model)),
        (CONFIG, f"{folder}/"),
        ("/etc/tandem-auth/", f"{folder}/auth/"),
        ("/etc/tandem-tls/", f"{folder}/tls/gateway/"),
        (f"r-tandem-verifier-0.{domain}:50060", f"127.0.0.1:{ports['verifier']}"),
        (f"r-tandem-verifier-0.{domain}:50061", f"127.0.0.1:{ports['verifier'] + 1}"),
        (f"r-tandem-draft-0.r-tandem-draft.{domain}:50070", f"127.0.0.1:{ports['draft']}"),
        (f"r-tandem.{domain}:50051", f"localhost:{ports['gateway']}"),
        ("0.0.0.0:50051", f"127.0.0.1:{ports['gateway']}"),
        ("0.0.0.0:50070", f"127.0.0.1:{ports['draft']}"),
        ("port: 50060", f"port: {ports['verifier']}"),
        ("0.0.0.0", "127.0.0.1"),
    ]


def make_secrets(folder: Path) -> None:
    """Write what the Secrets of the release would hold."""
    authority = Authority(folder)
    for component in COMPONENTS:
        suffix = "" if component == "gateway" else f"-{component}"
        files = authority.issue(component, f"r-tandem{suffix}.llm.svc.cluster.local", "localhost")
        (folder / "tls" / component).mkdir(parents=True)
        for file, name in zip(files, ("tls.crt", "tls.key", "ca.crt"), strict=True):
            assert file is not None
            (folder / "tls" / component / name).write_bytes(file.read_bytes())
    (folder / "auth").mkdir()
    made = CliRunner().invoke(tandem, ["token", "acme", "--out", str(folder / "auth" / "token")])
    (folder / "auth" / "tenants.yaml").write_text(made.output)


def replaced(text: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def command_and_environ(pod: Object, local: list[tuple[str, str]]) -> tuple[list[str], dict[str, str]]:
    """Return what a pod's container runs, with names and paths of this machine."""
    main = container(pod)
    line = [sys.executable, "-m", "common.cli.main", *main["command"][1:]]
    line += [replaced(argument, local) for argument in main["args"]]
    environ = {v["name"]: replaced(v["value"], local) for v in main["env"] if v["name"] not in ("TANDEM_HOME", "HOME")}
    return line, {**environment(), **environ}


@contextmanager
def started(pod: Object, local: list[tuple[str, str]], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    line, environ = command_and_environ(pod, local)
    with log.open("wb") as output:
        process = subprocess.Popen(line, env=environ, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def first_answer(
    pod: Object, local: list[tuple[str, str]], services: list[subprocess.Popen[bytes]], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run the test pod's command until it succeeds, as long as every service runs."""
    line, environ = command_and_environ(pod, local)
    until_s = time.monotonic() + START_S
    while True:
        assert all(service.poll() is None for service in services), logs(folder)
        answer = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=START_S, check=False)
        if answer.returncode == 0 or time.monotonic() > until_s:
            return answer
        time.sleep(0.5)


def logs(folder: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.log")))


def free_ports() -> dict[str, int]:
    """Return a free port for each component; the one after the verifier's is free as well, for its second rank."""
    for _ in range(50):
        with ExitStack() as stack:
            probes = [stack.enter_context(socket.socket()) for _ in range(7)]
            try:
                probes[0].bind(("127.0.0.1", 0))
                first = int(probes[0].getsockname()[1])
                probes[1].bind(("127.0.0.1", first + 1))
            except OSError:
                continue
            for probe in probes[2:]:
                probe.bind(("127.0.0.1", 0))
            names = ("gateway", "draft", *(f"{component} health" for component in COMPONENTS))
            others = {name: int(probe.getsockname()[1]) for name, probe in zip(names, probes[2:], strict=True)}
            return {"verifier": first, **others}
    pytest.fail("no two free ports in a row")
