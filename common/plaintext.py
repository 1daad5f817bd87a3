"""Which addresses may be spoken to in plaintext? Those that nobody outside of this machine can listen in on"""

import ipaddress
from collections.abc import Iterable

from common.errors import SettingsError


def is_local(address: str) -> bool:
    """Return whether `address`, host:port, unix:/path or a grpc target, is of this machine for certain.

    Names other than localhost are not: whatever they mean is decided elsewhere.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_plaintext(addresses: Iterable[str], what: str, ways_out: str) -> None:
    """Raise SettingsError, naming `what` and `ways_out`, where one of `addresses` is not local."""
    for address in addresses:
        if not is_local(address):
            raise SettingsError(f"{what} {address} would be plaintext that others can read and change: {ways_out}")
