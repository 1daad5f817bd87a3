"""Which pods are behind a Service now? List its EndpointSlices, then watch them (Kubernetes API concepts)"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

from common.errors import Refused, Unavailable
from gateway.discovery.endpoint import Endpoints, OnChange
from gateway.discovery.endpoint_slices import EndpointSlices
from gateway.discovery.kubernetes_api import Gone, KubernetesApi

MIN_PAUSE_S = 0.1
MAX_PAUSE_S = 5.0

log = logging.getLogger(__name__)


class KubernetesSource:
    """Watches one Service. While the API server cannot be reached, what was told last holds."""

    def __init__(self, url: str, credentials: Path, namespace: str, service: str, port: str) -> None:
        self._open_api: Callable[[], KubernetesApi] = lambda: KubernetesApi(url, credentials)
        self._path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        self._selector = f"kubernetes.io/service-name={service}"
        self._slices = EndpointSlices(port)
        self._version = ""  # to go on watching from; empty: list first
        self._told: Endpoints | None = None

    async def run(self, on_change: OnChange) -> None:
        """List, watch, and go on from where the watch ended; list anew where that is no longer known."""
        pause_s, problem = MIN_PAUSE_S, ""
        while True:
            began_s = time.monotonic()
            try:
                async with self._open_api() as api:
                    while True:
                        await self._follow(api, on_change)
                        pause_s, problem = MIN_PAUSE_S, ""
                        await asyncio.sleep(MIN_PAUSE_S)  # a server that ends every watch at once is not run down
            except Gone:
                self._version = ""
            except (Unavailable, Refused) as error:
                if str(error) != problem:
                    log.warning("EndpointSlices cannot be watched (%s): %s", self._selector, error)
                problem = str(error)
            if time.monotonic() - began_s > MAX_PAUSE_S:
                pause_s = MIN_PAUSE_S
            # Many gateways lose the same server at the same time.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    async def _follow(self, api: KubernetesApi, on_change: OnChange) -> None:
        """List if need be, then watch until the server ends that. Raises Gone, Unavailable or Refused."""
        if not self._version:
            listed = await api.list(self._path, self._selector)
            self._slices.replace(item for item in listed.get("items") or () if isinstance(item, dict))
            self._version = _version(listed)
            self._tell(on_change)
        async for kind, item in api.watch(self._path, self._selector, self._version):
            if kind in ("ADDED", "MODIFIED", "DELETED"):
                self._slices.apply(kind, item)
                self._tell(on_change)
            self._version = _version(item) or self._version

    def _tell(self, on_change: OnChange) -> None:
        endpoints = self._slices.endpoints()
        if endpoints != self._told:
            self._told = endpoints
            on_change(endpoints)


def _version(item: dict[str, object]) -> str:
    metadata = item.get("metadata")
    return str(metadata.get("resourceVersion", "")) if isinstance(metadata, dict) else ""
