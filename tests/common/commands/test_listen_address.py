"""Which addresses can be listened on."""

import socket

import pytest

from common.commands.listen_address import free_address
from common.errors import SettingsError


def test_a_free_port_is_chosen_and_can_be_used() -> None:
    address = free_address("127.0.0.1:0")
    host, port = address.split(":")
    assert int(port) > 0
    assert free_address(address) == address
    with socket.create_server((host, int(port))):
        pass


def test_other_forms() -> None:
    assert free_address("unix:/run/x.sock") == "unix:/run/x.sock"
    assert free_address("localhost:0").startswith("localhost:")


def test_a_taken_port_is_refused() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SettingsError, match="address already in use"),
    ):
        free_address(f"127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize("listen", ["50051", ":50051", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000"])
def test_malformed_addresses(listen: str) -> None:
    with pytest.raises(SettingsError, match="expected host:port"):
        free_address(listen)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--listen 192\.0\.2\.1:0"):
        free_address("192.0.2.1:0")
