"""What a setting like `dns:///drafts.llm.svc:50070` asks to be looked up, and where"""

import re
from dataclasses import dataclass
from typing import Literal

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_DNS = re.compile(rf"dns:///(?P<name>{_LABEL}(\.{_LABEL})*\.?):(?P<port>\d{{1,5}})")
_KUBERNETES = re.compile(rf"k8s:///(?P<namespace>{_LABEL})/(?P<name>{_LABEL}):(?P<port>\d{{1,5}}|{_LABEL})")


@dataclass(frozen=True, slots=True)
class Target:
    """`name` is an address where nothing is looked up, a host name for the DNS, or a Service's name.

    `port` is empty for addresses, a number for the DNS, and a number or the name of the Service's port for Kubernetes.
    """

    kind: Literal["address", "dns", "kubernetes"]
    name: str
    port: str = ""
    namespace: str = ""


def read_target(text: str) -> Target:
    """Return what `text` means. Raises ValueError where it is neither an address nor a well-formed target."""
    if match := _DNS.fullmatch(text):
        if not 0 < int(match["port"]) < 65536:
            raise ValueError(f"{text}: there is no port {match['port']}")
        return Target("dns", match["name"], match["port"])
    if match := _KUBERNETES.fullmatch(text):
        return Target("kubernetes", match["name"], match["port"], match["namespace"])
    if text.startswith(("dns:", "k8s:")):
        raise ValueError(f"{text}: expected dns:///name:port or k8s:///namespace/service:port")
    return Target("address", text)
