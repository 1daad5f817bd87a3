"""The gateway's door: every method, tokens good and bad, tenants and their limits, what is refused at the start."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
import yaml
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.channel import open_channel
from common.commands.listen_address import free_address
from common.errors import Overloaded, SettingsError
from common.health import HEALTH_SERVICE, HealthBoard
from common.status import read_status
from common.tls import ClientTls, TlsFiles
from gateway.auth.access import guarded_server, worker_tls
from gateway.auth.callers import Callers
from gateway.registration import SERVICE, register
from gateway.scoring import Scoring
from gateway.service import InferenceService
from gateway.settings import GatewaySettings
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.gateway.test_service import MANIFEST, MODEL, NumberPrompts
from tests.support.certificates import Authority, replace
from tests.support.fake_loop import running_loop
from tests.support.fake_rank import CHECKPOINT_HASH, FakeRank

CALL_S = 20.0
GOOD, OTHER, SMALL, CANARY = "tandem_good", "tandem_other", "tandem_small", "canary-71ab"
REFLECTION_METHOD = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
Code = grpc.StatusCode


def tenants_file(folder: Path, **tokens: dict[str, Any]) -> Path:
    """Write a file of tenants by name: their token and their limits."""
    entries = []
    for tenant, fields in tokens.items():
        digest = sha256(fields["token"].encode()).hexdigest()
        entries.append({"tenant": tenant, "sha256": digest, **{k: v for k, v in fields.items() if k != "token"}})
    replace(folder / "tenants.yaml", yaml.safe_dump(entries).encode())
    return folder / "tenants.yaml"


@asynccontextmanager
async def gateway(**given: Any) -> AsyncIterator[tuple[str, Any]]:
    """Serve the real service, health and reflection behind the real door, over one fake rank."""
    settings = GatewaySettings.model_validate(
        {"model": "/m", "ranks": ("127.0.0.1:1",), "listen": free_address("127.0.0.1:0"), **given}
    )
    callers = Callers(settings.tenants)
    server, _ = guarded_server(settings, callers)
    HealthBoard([SERVICE.full_name]).add_to(server)
    async with FakeRank() as rank, running_loop([rank]) as (loop, _):
        prompts, manifest = cast(Any, NumberPrompts()), cast(Any, MANIFEST)
        register(InferenceService(loop, prompts, MODEL, manifest, CHECKPOINT_HASH, callers), server, 5.0)
        reflection.enable_server_reflection((SERVICE.full_name, HEALTH_SERVICE, reflection.SERVICE_NAME), server)
        await server.start()
        try:
            yield settings.listen, loop
        finally:
            await server.stop(0)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def generate(first: int = 1, max_tokens: int = 4) -> pb.GenerateRequest:
    return pb.GenerateRequest(token_ids=pb.TokenIds(ids=[first]), stopping=pb.StoppingParams(max_tokens=max_tokens))


async def ended(call: Any) -> grpc.aio.AioRpcError | None:
    """Return how a stream ends."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error
    return None


def all_methods() -> Iterator[str]:
    """Yield every method of every service that a gateway registers, and some that it does not."""
    for service in (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"]):
        yield from (f"/{service.full_name}/{name}" for name in service.methods_by_name)
    yield from (REFLECTION_METHOD, f"/{SERVICE.full_name}/Nothing", "/grpc.channelz.v1.Channelz/GetServers", "/x/y")


def test_every_method_but_health_is_refused_without_a_token(tmp_path: Path) -> None:
    async def run() -> None:
        tenants = tenants_file(tmp_path, a={"token": GOOD})
        async with gateway(tenants=tenants) as (address, _), open_channel(address) as channel:
            for method in all_methods():
                error = await ended(_any_call(channel, method))
                if method.startswith(f"/{HEALTH_SERVICE}/"):
                    assert error is None or error.code() is Code.DEADLINE_EXCEEDED, method
                else:
                    assert error is not None and error.code() is Code.UNAUTHENTICATED, method

    asyncio.run(run())


def _any_call(channel: Any, method: str) -> Any:
    watching = method.endswith("/Watch")  # never ends
    return channel.unary_stream(method)(b"", timeout=1.0 if watching else CALL_S)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        bearer(CANARY),
        bearer(""),
        bearer(GOOD + " "),
        (("authorization", GOOD),),
        (("authorization", f"Basic {GOOD}"),),
        (*bearer(GOOD), *bearer(GOOD)),
        (("authorization-bin", f"Bearer {GOOD}".encode()),),
        (("x-tenant", "a"),),
    ],
)
def test_bad_tokens_learn_nothing(metadata: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        tenants = tenants_file(tmp_path, a={"token": GOOD})
        async with gateway(tenants=tenants) as (address, _), open_channel(address) as channel:
            stub: Any = InferenceServiceStub(channel)
            error = await ended(stub.Generate(generate(), metadata=metadata, timeout=CALL_S))
            assert error is not None and error.code() is Code.UNAUTHENTICATED
            assert error.details() == "a valid token is needed: `authorization: Bearer TOKEN`"
            status = read_status(error)
            assert status is not None and len(status.details) == 1

    asyncio.run(run())
    assert CANARY not in caplog.text and GOOD not in caplog.text


def test_the_tenant_is_the_tokens(tmp_path: Path) -> None:
    """Prefixes are shared within a tenant and never between two, whatever else a call says."""
    seen: list[str] = []

    async def run() -> None:
        tenants = tenants_file(tmp_path, a={"token": GOOD}, b={"token": OTHER})
        async with gateway(tenants=tenants) as (address, loop), open_channel(address) as channel:
            submit = loop.submit

            def seen_submit(job: Any) -> None:
                seen.append(job.sequence.tenant)
                if isinstance(job, Scoring):
                    raise Overloaded("this rank cannot score")
                submit(job)

            loop.submit = seen_submit
            stub: Any = InferenceServiceStub(channel)
            for token in (GOOD, OTHER):
                metadata = (*bearer(token), ("tenant", "a"), ("x-tenant", "a"))
                assert await ended(stub.Generate(generate(), metadata=metadata, timeout=CALL_S)) is None
                score = pb.ScoreRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]))
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.Score(score, metadata=metadata, timeout=CALL_S)

    asyncio.run(run())
    assert seen == ["a", "a", "b", "b"]


def _retry_s(error: grpc.aio.AioRpcError) -> tuple[str, float]:
    """Return the reason, and when to try again."""
    status = read_status(error)
    assert status is not None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info) and status.details[1].Unpack(retry)
    return info.reason, retry.retry_delay.ToMilliseconds() / 1000


def test_limits_are_each_tenants_own(tmp_path: Path) -> None:
    async def run() -> None:
        tenants = tenants_file(
            tmp_path,
            a={"token": GOOD, "max_streams": 1},
            b={"token": SMALL, "max_tokens_per_minute": 3},
            c={"token": OTHER},
        )
        async with gateway(tenants=tenants) as (address, _), open_channel(address) as channel:
            stub: Any = InferenceServiceStub(channel)
            running = stub.Generate(generate(max_tokens=50), metadata=bearer(GOOD))
            assert (await running.read()).HasField("started")
            error = await ended(stub.Generate(generate(), metadata=bearer(GOOD), timeout=CALL_S))
            # The running one may have ended by now: then nothing was refused.
            assert error is None or (error.code(), *_retry_s(error)) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", 1.0)
            running.cancel()
            assert await ended(stub.Generate(generate(), metadata=bearer(OTHER), timeout=CALL_S)) is None

            assert await ended(stub.Generate(generate(max_tokens=6), metadata=bearer(SMALL), timeout=CALL_S)) is None
            error = await ended(stub.Generate(generate(), metadata=bearer(SMALL), timeout=CALL_S))
            assert error is not None and error.code() is Code.RESOURCE_EXHAUSTED
            reason, retry_s = _retry_s(error)
            assert reason == "QUOTA_EXCEEDED" and 20 < retry_s <= 100, "7 tokens used, 3 a minute"
            await stub.Detokenize(pb.DetokenizeRequest(token_ids=[1]), metadata=bearer(SMALL), timeout=CALL_S)

    asyncio.run(run())


def test_a_changed_file_is_obeyed(tmp_path: Path) -> None:
    async def run() -> None:
        tenants = tenants_file(tmp_path, a={"token": GOOD})
        async with gateway(tenants=tenants) as (address, _), open_channel(address) as channel:
            stub: Any = InferenceServiceStub(channel)

            async def code(token: str) -> Code:
                error = await ended(stub.Generate(generate(), metadata=bearer(token), timeout=CALL_S))
                return Code.OK if error is None else error.code()

            assert (await code(GOOD), await code(OTHER)) == (Code.OK, Code.UNAUTHENTICATED)
            tenants_file(tmp_path, a={"token": OTHER})
            async with asyncio.timeout(60):
                while await code(OTHER) is not Code.OK:  # noqa: ASYNC110  # it has no event
                    await asyncio.sleep(0.05)
            assert await code(GOOD) is Code.UNAUTHENTICATED

    asyncio.run(run())


def test_token_and_certificate_are_both_asked_for(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    server = ours.issue("server", "localhost")
    given = {"tls_cert": server.cert, "tls_key": server.key, "tls_ca": server.ca, "tls_peers": ("client.svc",)}

    async def run() -> None:
        async with gateway(tenants=tenants_file(tmp_path, a={"token": GOOD}), **given) as (address, _):
            outcomes = []
            for name in ("client.svc", "other.svc"):
                async with open_channel(address, tls=ours.client(name, name, server_name="localhost")) as channel:
                    stub: Any = InferenceServiceStub(channel)
                    for metadata in (bearer(GOOD), ()):
                        error = await ended(stub.Generate(generate(), metadata=metadata, timeout=CALL_S))
                        outcomes.append(error.code() if error is not None else Code.OK)
                    health = health_pb2_grpc.HealthStub(channel)
                    await health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_S)
            assert outcomes == [Code.OK, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED, Code.UNAUTHENTICATED]

    asyncio.run(run())


def test_a_gateway_with_tls_needs_no_client_certificates(tmp_path: Path) -> None:
    ours = Authority(tmp_path)
    server = ours.issue("server", "localhost")

    async def run() -> None:
        tls = ClientTls(TlsFiles(None, None, ours.ca), "localhost")
        given = {"tls_cert": server.cert, "tls_key": server.key}
        async with gateway(**given) as (address, _), open_channel(address, tls=tls) as channel:
            stub: Any = InferenceServiceStub(channel)
            assert await ended(stub.Generate(generate(), timeout=CALL_S)) is None

    asyncio.run(run())


def check_workers(settings: GatewaySettings) -> object:
    return worker_tls(settings, "")


def check_door(settings: GatewaySettings) -> object:
    return guarded_server(settings, Callers())


@pytest.mark.parametrize(
    "check, given, named",
    [
        (check_door, {"listen": "0.0.0.0:0"}, r"--tls-cert and --tls-key.*--allow-plaintext"),
        (check_door, {"listen": "0.0.0.0:0", "allow_plaintext": True}, r"--tenants.*--allow-anonymous"),
        (check_workers, {"ranks": ("rank-0:50060",)}, r"rank-0:50060.*--worker-tls-cert.*--allow-plaintext"),
        (check_workers, {"drafts": ("10.0.0.7:50070",)}, r"10\.0\.0\.7:50070.*--worker-tls-cert"),
        (check_workers, {"worker_tls_ca": "/ca"}, r"needed together"),
    ],
)
def test_what_is_unsafe_is_refused_at_the_start(check: Callable[[Any], object], given: Any, named: str) -> None:
    settings = GatewaySettings.model_validate({"model": "/m", "ranks": ("unix:/r",), **given})
    with pytest.raises(SettingsError, match=named):
        check(settings)
