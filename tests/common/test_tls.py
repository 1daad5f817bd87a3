"""TLS between services, every certificate that may come: who gets through, and what the others are told."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.channel import open_channel
from common.commands.listen_address import free_address
from common.errors import SettingsError
from common.listening import worker_server
from common.service_settings import ServiceSettings
from common.status import read_status
from common.tls import ClientTls, TlsFiles, server_credentials
from tandem.draft.v1.draft_service_pb2 import DESCRIPTOR as DRAFT
from tandem.draft.v1.draft_service_pb2_grpc import DraftServiceServicer, add_DraftServiceServicer_to_server
from tandem.shard.v1.shard_service_pb2 import DESCRIPTOR as SHARD
from tandem.shard.v1.shard_service_pb2_grpc import ShardServiceServicer, add_ShardServiceServicer_to_server
from tests.support.certificates import Authority, encrypt, replace

WORKERS = (SHARD.services_by_name["ShardService"], DRAFT.services_by_name["DraftService"])
SERVER, GATEWAY, URI = "verifier.llm.svc", "gateway.llm.svc", "spiffe://cluster.local/ns/llm/sa/gateway"
CALL_S, WAIT_S = 20.0, 60.0
StatusCode = grpc.StatusCode


def settings_of(files: TlsFiles, *peers: str) -> ServiceSettings:
    return ServiceSettings(tls_cert=files.cert, tls_key=files.key, tls_ca=files.ca, tls_peers=peers or (GATEWAY, URI))


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
    for number in range(1_000_000):
        yield str(number).encode()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def worker(settings: ServiceSettings) -> AsyncIterator[str]:
    """Serve two methods as a worker serves its own, on a free port."""
    address = free_address("127.0.0.1:0")
    server, _ = worker_server(address, "test", settings)
    methods: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def call(address: str, tls: ClientTls | None, method: str = "/test/Echo") -> StatusCode:
    """Return how a call ends; a refusal's text must be one of the fixed ones."""
    async with open_channel(address, tls=tls) as channel:
        echo: Any = channel.unary_unary(method)
        try:
            assert await echo(b"ping", timeout=CALL_S) == b"ping"
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.PERMISSION_DENIED:
                status = read_status(error)
                assert error.details() == "this caller is not let in" and status and len(status.details) == 1
            return error.code()
        return StatusCode.OK


def test_the_matrix(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path), Authority(tmp_path, "others")
    expired = ClientTls(ours.issue("expired", GATEWAY, valid_for=-datetime.timedelta(hours=1)), SERVER)
    stranger = theirs.issue("stranger", GATEWAY)
    cases = {
        "good DNS name": (ours.client("good", GATEWAY, server_name=SERVER), StatusCode.OK),
        "good URI": (ours.client("uri", "other.svc", URI, server_name=SERVER), StatusCode.OK),
        "wrong identity": (ours.client("other", "other.svc", server_name=SERVER), StatusCode.PERMISSION_DENIED),
        # The common name is not an identity (RFC 6125): only the names a certificate was issued for are.
        "name in the subject only": (ours.client(GATEWAY, "x.svc", server_name=SERVER), StatusCode.PERMISSION_DENIED),
        "expired": (expired, StatusCode.UNAVAILABLE),
        "of another authority": (ClientTls(stranger._replace(ca=ours.ca), SERVER), StatusCode.UNAVAILABLE),
        "no certificate": (ClientTls(TlsFiles(None, None, ours.ca), SERVER), StatusCode.UNAVAILABLE),
        "no TLS": (None, StatusCode.UNAVAILABLE),
        "the server's authority is unknown": (ClientTls(stranger, SERVER), StatusCode.UNAVAILABLE),
        "the server has another name": (ours.client("good2", GATEWAY), StatusCode.UNAVAILABLE),
    }

    async def run() -> None:
        async with worker(settings_of(ours.issue("server", SERVER))) as address:
            outcomes = await asyncio.gather(*(call(address, tls) for tls, _ in cases.values()))
            assert dict(zip(cases, outcomes, strict=True)) == {name: code for name, (_, code) in cases.items()}

    asyncio.run(run())


def test_an_expired_server_is_not_believed(tmp_path: Path) -> None:
    ours = Authority(tmp_path)

    async def run() -> None:
        expired = ours.issue("server", SERVER, valid_for=-datetime.timedelta(hours=1))
        async with worker(settings_of(expired)) as address:
            assert await call(address, ours.client("good", GATEWAY, server_name=SERVER)) is StatusCode.UNAVAILABLE

    asyncio.run(run())


def test_methods_that_do_not_exist_are_refused_alike_and_health_is_open(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    other = ours.client("other", "other.svc", server_name=SERVER)
    good = ours.client("good", GATEWAY, server_name=SERVER)

    async def run() -> None:
        async with worker(settings_of(ours.issue("server", SERVER))) as address:
            assert await call(address, other, "/test/Nothing") is StatusCode.PERMISSION_DENIED
            assert await call(address, good, "/test/Nothing") is StatusCode.UNIMPLEMENTED
            assert await call(address, other, "/test/Count") is StatusCode.PERMISSION_DENIED
            async with open_channel(address, tls=other) as channel:
                health = health_pb2_grpc.HealthStub(channel)
                answer = await health.Check(health_pb2.HealthCheckRequest(service="live"), timeout=CALL_S)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(run())


def test_no_method_of_a_worker_is_open_to_others(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    other = ours.client("other", "other.svc", server_name=SERVER)
    methods = [f"/{service.full_name}/{name}" for service in WORKERS for name in service.methods_by_name]
    assert len(methods) == 4

    async def run() -> None:
        address = free_address("127.0.0.1:0")
        server, _ = worker_server(address, "test", settings_of(ours.issue("server", SERVER)))
        add_ShardServiceServicer_to_server(ShardServiceServicer(), server)  # type: ignore[abstract]
        add_DraftServiceServicer_to_server(DraftServiceServicer(), server)  # type: ignore[abstract]
        await server.start()
        try:
            assert {await call(address, other, method) for method in methods} == {StatusCode.PERMISSION_DENIED}
        finally:
            await server.stop(0)

    asyncio.run(run())


def test_certificates_change_while_a_stream_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The stream goes on. New connections need certificates of the new authority; a client's next channel has one."""
    old = Authority(tmp_path)
    files = old.issue("server", SERVER)
    client = old.client("client", GATEWAY, server_name=SERVER)
    before = ClientTls(TlsFiles(*(_copy(path) for path in client_files(tmp_path))), SERVER)

    async def run() -> None:
        async with worker(settings_of(files)) as address, open_channel(address, tls=client) as channel:
            stream: Any = channel.unary_stream("/test/Count")
            running = stream(b"")
            assert await running.read() == b"0"
            new = Authority(tmp_path)  # its file replaces the old one's, and then all certificates are replaced
            new.issue("server", SERVER)
            new.issue("client", GATEWAY)
            await until(address, client, StatusCode.OK)
            await until(address, before, StatusCode.UNAVAILABLE)
            first = int(await running.read())
            assert int(await running.read()) == first + 1
            running.cancel()

    asyncio.run(run())


def test_a_certificate_without_its_key_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = Authority(tmp_path)
    files = ours.issue("server", SERVER)
    client = ours.client("client", GATEWAY, server_name=SERVER)

    async def run() -> None:
        async with worker(settings_of(files)) as address:
            other = ours.issue("other", SERVER)
            assert files.cert and other.cert
            replace(files.cert, other.cert.read_bytes())
            async with asyncio.timeout(WAIT_S):
                while "stays in use" not in caplog.text:
                    assert await call(address, client) is StatusCode.OK
            assert await call(address, client) is StatusCode.OK

    asyncio.run(run())


async def until(address: str, tls: ClientTls, outcome: StatusCode) -> None:
    """Call again and again until a call ends so."""
    async with asyncio.timeout(WAIT_S):
        while await call(address, tls) is not outcome:  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.05)


def client_files(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "client.pem", folder / "client.key", folder / "ca.pem"


def _copy(path: Path) -> Path:
    kept = path.with_name(f"kept-{path.name}")
    kept.write_bytes(path.read_bytes())
    return kept


@pytest.mark.parametrize("broken", ["missing", "not PEM", "another key", "encrypted", "no authority"])
def test_files_that_cannot_be_used_are_refused_by_name(broken: str, tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    files = ours.issue("server", SERVER)
    assert files.cert and files.key and files.ca
    if broken == "missing":
        files.cert.unlink()
    elif broken == "not PEM":
        files.cert.write_text("hello")
    elif broken == "another key":
        files.key.write_bytes((ours.issue("other", SERVER).key or tmp_path).read_bytes())
    elif broken == "encrypted":
        encrypt(files.key)
    else:
        files.ca.write_text("nothing")
    with pytest.raises(SettingsError, match="ca.pem" if broken == "no authority" else "server.pem"):
        server_credentials(files)
