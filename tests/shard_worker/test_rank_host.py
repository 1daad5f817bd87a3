"""One host's ranks: which processes they are, and that a lost host ends the others. Hosts are loopback addresses."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import SettingsError
from shard_worker.rank_host import plan_ranks
from shard_worker.rank_host_settings import RankHostSettings
from tests.support.cluster import environment
from tests.support.tiny_model import TinyShape, make_tiny_model

HOSTS = ("127.0.0.1", "127.0.0.2")
ENVIRON = {"TANDEM_SHARD_MODEL": "/models/m", "TANDEM_SHARD_DRAIN_BUDGET_S": "7"}
START_S = 60.0
END_S = 20.0


def test_a_host_starts_its_share_of_the_ranks(tmp_path: Path) -> None:
    settings = RankHostSettings(hosts=("a", "b"), host=1, ranks_per_host=2, device="cuda", bind="0.0.0.0", port=7000)
    stage = plan_ranks(settings, ENVIRON | {"TANDEM_SHARD_ALLOW_PLAINTEXT": "true"}, tmp_path)
    lines = [" ".join(command.command_line[3:]) for command in stage.commands]
    assert lines == [
        "serve shard --rank 2 --tp 4 --listen 0.0.0.0:7000 --device cuda:0 --rendezvous tcp://a:29500",
        "serve shard --rank 3 --tp 4 --listen 0.0.0.0:7001 --device cuda:1 --rendezvous tcp://a:29500",
    ]
    assert stage.stop_budget_s > 7


def test_the_first_rank_answers_for_the_health_of_its_host(tmp_path: Path) -> None:
    first, second = plan_ranks(RankHostSettings(ranks_per_host=2, health_port=50052), ENVIRON, tmp_path).commands
    line = list(first.command_line)
    assert line[line.index("--health-listen") + 1] == "127.0.0.1:50052"
    assert "--health-listen" not in second.command_line


def test_ranks_of_a_single_host_meet_in_a_file(tmp_path: Path) -> None:
    stage = plan_ranks(RankHostSettings(ranks_per_host=2), ENVIRON, tmp_path)
    assert all(f"file://{tmp_path}/rendezvous" in command.command_line for command in stage.commands)


@pytest.mark.parametrize(
    "settings, environ, named",
    [
        (RankHostSettings(host=1), ENVIRON, "--host 1"),
        (RankHostSettings(port=65535, ranks_per_host=2), ENVIRON, "--port 65535"),
        (RankHostSettings(), {**ENVIRON, "TANDEM_SHARD_THRAEDS": "1"}, "TANDEM_SHARD_THRAEDS"),
        (RankHostSettings(), {}, "--model"),
        (RankHostSettings(bind="0.0.0.0"), ENVIRON, "--allow-plaintext.*TANDEM_SHARD"),
    ],
)
def test_what_a_rank_would_refuse_is_refused_first(
    settings: RankHostSettings, environ: dict[str, str], named: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=named):
        plan_ranks(settings, environ, tmp_path)


def test_a_lost_host_ends_the_other_one_and_a_new_group_forms(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "tiny", TinyShape()).folder
    ports = _free_port(), _free_port()
    hosts = [_start(number, model, ports, tmp_path) for number in range(2)]
    try:
        _until_serving(tmp_path, hosts)
        hosts[1].kill()
        assert hosts[0].wait(END_S) == 1
        assert "host 127.0.0.2 of the group was lost" in (tmp_path / "0.log").read_text()
        hosts[1].wait()
        hosts = [_start(number, model, ports, tmp_path) for number in range(2)]
        _until_serving(tmp_path, hosts)
        for host in hosts:
            host.terminate()
        # The first one to stop may be a lost host to the other.
        assert sorted(host.wait(END_S) for host in hosts) in ([0, 0], [0, 1])
    finally:
        for host in hosts:
            host.kill()
            host.wait()


def _start(number: int, model: Path, ports: tuple[int, int], folder: Path) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "common.cli.main", "serve", "ranks", "--hosts", ",".join(HOSTS)]
    line += ["--host", str(number), "--bind", HOSTS[number], "--port", str(ports[0])]
    line += ["--rendezvous-port", str(ports[1])]
    environ = {"TANDEM_SHARD_MODEL": str(model), "TANDEM_SHARD_DTYPE": "float32", "TANDEM_SHARD_THREADS": "1"}
    environ |= {"TANDEM_SHARD_KV_CACHE_TOKENS": "256", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with (folder / f"{number}.log").open("wb") as log:
        return subprocess.Popen(line, env={**environment(), **environ}, stdout=log, stderr=log)


def _until_serving(folder: Path, hosts: list[subprocess.Popen[bytes]]) -> None:
    """Wait until the hosts watch each other: their ranks serve then."""
    until_s = time.monotonic() + START_S
    logs = [folder / f"{number}.log" for number in range(len(hosts))]
    while not all("watching" in log.read_text() for log in logs):
        ended = [host.poll() for host in hosts]
        assert time.monotonic() < until_s and not any(code is not None for code in ended), [
            log.read_text()[-2000:] for log in logs
        ]
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
