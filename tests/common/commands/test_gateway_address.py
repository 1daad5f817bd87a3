"""The flags by which a client shows who it is; no token ever stands in one."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from common.channel import server_options
from common.cli.main import tandem
from common.commands.gateway_address import GatewayAddress, read_token
from common.errors import SettingsError
from common.tls import TlsFiles, server_credentials
from tandem.v1 import inference_service_pb2 as pb
from tandem.v1.inference_service_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from tests.support.certificates import Authority

TOKEN = "tandem_canary"


class Echo(InferenceServiceServicer):
    """Answers with what the call carried."""

    async def GetModel(self, request: Any, context: Any) -> pb.GetModelResponse:
        return pb.GetModelResponse(name="echo")

    async def Generate(self, request: Any, context: Any) -> Any:
        for key, value in context.invocation_metadata():
            if key == "authorization":
                yield pb.GenerateResponse(delta=pb.GenerateDelta(text=value))
        yield pb.GenerateResponse(finished=pb.GenerateFinished())


@contextmanager
def serving(files: TlsFiles | None) -> Iterator[str]:
    """Serve on a thread of its own; yields the address."""
    stop, started = asyncio.Event(), threading.Event()
    found: list[Any] = []

    async def run() -> None:
        server = grpc.aio.server(options=server_options())
        add_InferenceServiceServicer_to_server(Echo(), server)  # type: ignore[abstract]
        secure = files and server.add_secure_port("localhost:0", server_credentials(files))
        found.extend((asyncio.get_running_loop(), secure or server.add_insecure_port("localhost:0")))
        await server.start()
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert started.wait(60)
        yield f"localhost:{found[1]}"
    finally:
        found[0].call_soon_threadsafe(stop.set)
        thread.join()


def generate(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(tandem, ["generate", "--address", address, *arguments, "hello"], standalone_mode=False)


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


def test_a_token_travels_in_the_authorization_header(tmp_path: Path, token_file: Path) -> None:
    files = Authority(tmp_path).issue("server", "localhost")._replace(ca=None)
    with serving(files) as address:
        arguments = ("--tls-ca", str(tmp_path / "ca.pem"), "--token-file", str(token_file))
        assert generate(address, *arguments).stdout == f"Bearer {TOKEN}\n"
        other = Authority(tmp_path, "other").ca
        wrong = generate(address, "--tls-ca", str(other))
        assert wrong.exception is not None and "with TLS" in str(wrong.exception)
    with serving(None) as address:
        assert generate(address, "--token-file", str(token_file)).stdout == f"Bearer {TOKEN}\n"


def test_a_token_is_not_sent_in_plaintext_beyond_this_machine(token_file: Path) -> None:
    result = generate("gateway.llm.svc:50051", "--token-file", str(token_file))
    assert isinstance(result.exception, SettingsError)
    assert "--tls-ca" in str(result.exception) and "--allow-plaintext" in str(result.exception)


def test_the_environment_names_files(token_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_TOKEN_FILE", str(token_file))
    with serving(None) as address:
        assert generate(address).stdout == f"Bearer {TOKEN}\n"


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", b"a\nb", b"x" * 5000])
def test_what_is_no_token_is_refused_and_not_quoted(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="no token") as caught:
        read_token(path)
    assert "two words" not in str(caught.value)


def test_an_address_hides_its_token() -> None:
    assert TOKEN not in repr(GatewayAddress("a:1", token=TOKEN)) + str(GatewayAddress("a:1", token=TOKEN))
