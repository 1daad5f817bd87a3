"""Names that are polled, and everything that is not: targets, their merging, and what settings refuse."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.discovery.discovery import Discovery
from gateway.discovery.dns import DnsSource
from gateway.discovery.endpoint import Endpoint, Endpoints
from gateway.discovery.target import Target, read_target
from gateway.settings import GatewaySettings
from tests.support.fake_loop import until

POLL_S = 0.01
Answer = list[str] | OSError


class FakeDns:
    """Answers every look-up with what is set."""

    def __init__(self) -> None:
        self.answer: Answer = []
        self.num_asked = 0

    def __call__(self, name: str, port: int, **_: Any) -> list[Any]:
        self.num_asked += 1
        if isinstance(self.answer, OSError):
            raise self.answer
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(kinds[":" in host], socket.SOCK_STREAM, 6, "", (host, port)) for host in self.answer]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> FakeDns:
    fake = FakeDns()
    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return fake


def polled(test: Callable[[list[Endpoints]], Any]) -> None:
    """Run a source beside `test`, which is given what was told so far."""

    async def run() -> None:
        told: list[Endpoints] = []
        task = asyncio.create_task(DnsSource("drafts.llm.svc", 80, POLL_S).run(told.append))
        try:
            await test(told)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(run())


def test_a_name_s_addresses_are_told_once_for_each_change(dns: FakeDns) -> None:
    async def test(told: list[Endpoints]) -> None:
        await until(lambda: told == [()])
        dns.answer = ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
        await until(lambda: told[-1] == (Endpoint("10.0.0.1:80"), Endpoint("10.0.0.2:80")))
        dns.answer = ["10.0.0.1", "10.0.0.2"]
        asked = dns.num_asked
        await until(lambda: dns.num_asked > asked + 3)
        dns.answer = ["fd00::1", "10.0.0.3"]  # one worker with two addresses
        await until(lambda: told[-1] == (Endpoint("10.0.0.3:80"),))
        dns.answer = ["fd00::2"]
        await until(lambda: told[-1] == (Endpoint("[fd00::2]:80"),))
        assert len(told) == 4

    polled(test)


def test_no_such_name_is_nobody_and_no_answer_changes_nothing(dns: FakeDns, caplog: pytest.LogCaptureFixture) -> None:
    async def test(told: list[Endpoints]) -> None:
        dns.answer = ["10.0.0.1"]
        await until(lambda: told[-1:] == [(Endpoint("10.0.0.1:80"),)])
        dns.answer = socket.gaierror(socket.EAI_AGAIN, "temporary failure")
        asked = dns.num_asked
        await until(lambda: dns.num_asked > asked + 3)
        assert told[-1] == (Endpoint("10.0.0.1:80"),) and caplog.text.count("cannot be asked") == 1
        dns.answer = socket.gaierror(socket.EAI_NONAME, "no such name")
        await until(lambda: not told[-1])

    polled(test)


def test_a_real_name() -> None:
    async def test() -> None:
        told: list[Endpoints] = []
        task = asyncio.create_task(DnsSource("localhost", 80).run(told.append))
        await until(lambda: told)
        task.cancel()
        await asyncio.wait([task])
        assert told == [(Endpoint("127.0.0.1:80"),)]

    asyncio.run(test())


def test_targets_of_all_kinds_are_one_set(dns: FakeDns, tmp_path: Path) -> None:
    async def test() -> None:
        dns.answer = ["10.0.0.1", "10.0.0.2"]
        told: list[Endpoints] = []
        discovery = Discovery(["10.0.0.2:80", "unix:/x", "10.0.0.2:80", "dns:///drafts:80"], "", tmp_path)
        task = asyncio.create_task(discovery.run(told.append))
        static = (Endpoint("10.0.0.2:80"), Endpoint("unix:/x"))
        await until(lambda: told == [static, (*static, Endpoint("10.0.0.1:80"))])
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(test())


@pytest.mark.parametrize(
    "text, target",
    [
        ("dns:///drafts.llm.svc.cluster.local:50070", Target("dns", "drafts.llm.svc.cluster.local", "50070")),
        ("k8s:///llm/drafts:50070", Target("kubernetes", "drafts", "50070", "llm")),
        ("k8s:///llm/drafts:grpc", Target("kubernetes", "drafts", "grpc", "llm")),
        ("unix:/tmp/draft.sock", Target("address", "unix:/tmp/draft.sock")),
        ("[::1]:50070", Target("address", "[::1]:50070")),
    ],
)
def test_a_target_is_read(text: str, target: Target) -> None:
    assert read_target(text) == target


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"drafts": ("dns:///drafts",)}, "expected dns:///name:port"),
        ({"drafts": ("dns://8.8.8.8/drafts:1",)}, "expected dns:///name:port"),
        ({"drafts": ("dns:///drafts:70000",)}, "there is no port 70000"),
        ({"drafts": ("k8s:///drafts:50070",)}, "k8s:///namespace/service:port"),
        ({"groups": ("k8s:///../secrets:1",)}, "k8s:///namespace/service:port"),
        ({"groups": ("unix:/tmp/rank.sock",)}, "expected host:port"),
        ({"kubernetes_api": "http://10.0.0.1"}, "http only on this machine"),
        ({"kubernetes_api": "http://localhost.evil"}, "http only on this machine"),
    ],
)
def test_what_cannot_be_looked_up_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GatewaySettings(model=Path("unused"), **settings)
