"""Which addresses count as this machine's own, and what is said of the others."""

import pytest

from common.errors import SettingsError
from common.listening import peers_asked_for, worker_server
from common.plaintext import is_local
from common.service_settings import ServiceSettings


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1", "unix:/run/x", "dns:///127.0.0.1:5"]
)
def test_local(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gateway:1", "localhost.evil.org:1", "dns:///gateway:1", "127.0.0.1.x:1", ""],
)
def test_not_local(address: str) -> None:
    assert not is_local(address)


def test_plaintext_beyond_this_machine_is_refused_with_both_ways_out() -> None:
    with pytest.raises(SettingsError, match=r"0\.0\.0\.0:0 .*--tls-cert and --tls-key.*--allow-plaintext"):
        worker_server("0.0.0.0:0", "test", ServiceSettings())


@pytest.mark.parametrize(
    "given, named",
    [
        ({"tls_cert": "/c"}, "--tls-key"),
        ({"tls_cert": "/c", "tls_key": "/k", "tls_ca": "/a"}, "--tls-peers"),
        ({"tls_cert": "/c", "tls_key": "/k", "tls_peers": ("x",)}, "--tls-ca"),
        ({"tls_ca": "/a", "tls_peers": ("x",)}, "--tls-cert"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        peers_asked_for("0.0.0.0:1", ServiceSettings.model_validate(given))


def test_a_worker_with_tls_must_know_its_callers() -> None:
    settings = ServiceSettings.model_validate({"tls_cert": "/c", "tls_key": "/k"})
    with pytest.raises(SettingsError, match="--tls-ca and --tls-peers"):
        worker_server("127.0.0.1:0", "test", settings)
