"""A Service's EndpointSlices (discovery.k8s.io/v1), kept up to date, and the endpoints they add up to"""

from collections.abc import Iterable, Iterator
from typing import Any

from gateway.discovery.endpoint import Endpoint, Endpoints

Slice = dict[str, Any]


class EndpointSlices:
    """The slices of one Service by name. Fields that are missing or of another type count as not given."""

    def __init__(self, port: str) -> None:
        """`port` is a number, or the name of the Service's port."""
        self._port = port
        self._slices: dict[str, Slice] = {}

    def replace(self, slices: Iterable[Slice]) -> None:
        """These are all there are."""
        self._slices = {_name(item): item for item in slices}

    def apply(self, kind: str, item: Slice) -> None:
        """Apply a watch event: ADDED, MODIFIED or DELETED."""
        if kind == "DELETED":
            self._slices.pop(_name(item), None)
        else:
            self._slices[_name(item)] = item

    def endpoints(self) -> Endpoints:
        """Return one endpoint a pod, sorted by address.

        A pod may be in several slices: one for each family of addresses, of which IPv4 comes first, and two while it is
        moved between them; if any says that it takes no work, it takes none.
        """
        found: dict[str, Endpoint] = {}
        for item in sorted(self._slices.values(), key=lambda item: str(item.get("addressType"))):
            for endpoint in self._of_slice(item):
                key = endpoint.name or endpoint.address
                known = found.setdefault(key, endpoint)
                if known.takes_work and not endpoint.takes_work:
                    found[key] = Endpoint(known.address, known.name, False)
        return tuple(sorted(found.values()))

    def _of_slice(self, item: Slice) -> Iterator[Endpoint]:
        port = self._port_of(item)
        if port is None:
            return
        for endpoint in _objects(item.get("endpoints")):
            addresses = endpoint.get("addresses") or [""]
            host = str(addresses[0])  # those beyond the first are the same endpoint (API reference)
            if host:
                target, conditions = endpoint.get("targetRef") or {}, endpoint.get("conditions") or {}
                address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                yield Endpoint(address, str(target.get("name", "")), _takes_work(conditions))

    def _port_of(self, item: Slice) -> int | None:
        if self._port.isdecimal():
            return int(self._port)
        for port in _objects(item.get("ports")):
            if port.get("name") == self._port and port.get("port"):
                return int(port["port"])
        return None


def _takes_work(conditions: dict[str, Any]) -> bool:
    """`ready` is of no use: a Service with publishNotReadyAddresses calls all its endpoints ready, `serving` does not.

    What is not given is unknown, which is to be taken as ready, as serving, and as not terminating (API reference).
    """
    serving = conditions.get("serving")
    if serving is None:
        serving = conditions.get("ready")
    return serving is not False and conditions.get("terminating") is not True


def _name(item: Slice) -> str:
    return str((item.get("metadata") or {}).get("name", ""))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value or () if isinstance(item, dict)]
