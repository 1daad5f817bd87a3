"""Everything that some targets lead to, as one changing set of endpoints"""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from gateway.discovery.dns import DnsSource
from gateway.discovery.endpoint import Endpoint, Endpoints, OnChange, Source
from gateway.discovery.target import Target, read_target

RESTART_S = 1.0

log = logging.getLogger(__name__)


class Discovery:
    """Follows any number of targets, of any kinds."""

    def __init__(self, targets: Iterable[str], kubernetes_api: str, kubernetes_credentials: Path) -> None:
        """`kubernetes_api` is the API server's URL, `kubernetes_credentials` the folder of a service account's token.

        Raises ValueError where a target is malformed.
        """
        found = [read_target(text) for text in dict.fromkeys(targets)]
        self._static = tuple(Endpoint(target.name) for target in found if target.kind == "address")
        access = kubernetes_api, kubernetes_credentials
        self._sources = [_source(target, *access) for target in found if target.kind != "address"]
        self._told: list[Endpoints] = [()] * len(self._sources)

    @property
    def endpoints(self) -> Endpoints:
        """All endpoints that are known, those of static lists first, each address once."""
        found: dict[str, Endpoint] = {}
        for endpoints in (self._static, *self._told):
            for endpoint in endpoints:
                found.setdefault(endpoint.address, endpoint)
        return tuple(found.values())

    async def run(self, on_change: OnChange) -> None:
        """Tell all endpoints at once and after each change; ends only by cancellation."""
        on_change(self.endpoints)
        async with asyncio.TaskGroup() as group:
            for number, source in enumerate(self._sources):
                group.create_task(self._follow(number, source, on_change))

    async def _follow(self, number: int, source: Source, on_change: OnChange) -> None:
        def tell(endpoints: Endpoints) -> None:
            self._told[number] = endpoints
            on_change(self.endpoints)

        while True:
            try:
                await source.run(tell)
            except Exception:
                log.exception("a source of discovery failed and is started anew")
                await asyncio.sleep(RESTART_S)


def _source(target: Target, kubernetes_api: str, kubernetes_credentials: Path) -> Source:
    if target.kind == "dns":
        return DnsSource(target.name, int(target.port))
    from gateway.discovery.kubernetes import KubernetesSource  # an HTTP client, needed for this alone

    return KubernetesSource(kubernetes_api, kubernetes_credentials, target.namespace, target.name, target.port)
