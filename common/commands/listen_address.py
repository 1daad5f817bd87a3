"""Can this address be listened on, and with which port?"""

import socket

from common.errors import SettingsError


def free_address(listen: str, flag: str = "--listen") -> str:
    """Return `listen` with its port, a free one where it says 0, once nothing else is seen to listen there.

    `listen` is host:port, [ipv6]:port or unix:/path (returned as it is); `flag` is what it was given by.

    Raises SettingsError when it is malformed, or the address is taken or not of this machine.
    """
    if listen.startswith("unix:"):
        return listen
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"{flag} {listen}: expected host:port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As grpc does: a port on which ended connections linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return f"{host}:{probe.getsockname()[1]}"
    except OSError as error:
        raise SettingsError(f"{flag} {listen}: {(error.strerror or str(error)).lower()}") from error
