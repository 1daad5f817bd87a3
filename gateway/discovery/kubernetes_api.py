"""The few calls of the Kubernetes API that discovery makes: list, and watch as lines of JSON"""

import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2

from common.errors import Refused, Unavailable

ANSWER_TIMEOUT_S = 10.0
WATCH_S = 60.0  # the API server ends a watch after so long, and the next one goes on from there
WATCH_MARGIN_S = 15.0
MAX_LIST_BYTES = 64 << 20
MAX_EVENT_BYTES = 8 << 20
# A connection whose peer vanished is found out within some seconds, not at the end of a watch.
KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]

Json = dict[str, Any]


class Gone(Exception):
    """The resource version to go on from is no longer known, or of another history: list again."""


class KubernetesApi:
    """A connection to the API server as the pod's service account. Use as an async context manager."""

    def __init__(self, url: str, credentials: Path) -> None:
        """`credentials` is the folder that a service account is mounted as: `token`, renewed by the kubelet, and
        `ca.crt`. Raises Unavailable where the latter cannot be read."""
        self._token = credentials / "token"
        try:
            verify = ssl.create_default_context(cafile=credentials / "ca.crt") if url.startswith("https:") else True
        except (OSError, ssl.SSLError) as error:
            raise Unavailable(f"{credentials / 'ca.crt'} cannot be used: {error}") from error
        self._client = httpx2.AsyncClient(
            base_url=url,
            transport=httpx2.AsyncHTTPTransport(verify=verify, socket_options=KEEPALIVE),
            trust_env=False,
            timeout=ANSWER_TIMEOUT_S,
        )

    async def __aenter__(self) -> "KubernetesApi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def list(self, path: str, selector: str) -> Json:
        """Return a list object. Raises Unavailable where the server cannot be reached, Refused where it refuses."""
        chunks = b""
        async for chunk in self._get(path, {"labelSelector": selector}, ANSWER_TIMEOUT_S):
            chunks += chunk
            if len(chunks) > MAX_LIST_BYTES:
                raise Unavailable("the list is too long")
        return _parse(chunks)

    async def watch(self, path: str, selector: str, version: str) -> AsyncIterator[tuple[str, Json]]:
        """Yield (type, object) of each event after `version`, bookmarks too, until the server ends the watch.

        Raises Gone, Unavailable or Refused.
        """
        query = {
            "labelSelector": selector,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(WATCH_S)),
        }
        unread = b""
        async for chunk in self._get(path, query, WATCH_S + WATCH_MARGIN_S):
            *lines, unread = (unread + chunk).split(b"\n")
            if len(unread) > MAX_EVENT_BYTES:
                raise Unavailable("an event is too long")
            for line in filter(None, lines):
                event = _parse(line)
                kind, item = str(event.get("type", "")), event.get("object")
                item = item if isinstance(item, dict) else {}
                if kind == "ERROR":
                    raise _problem(item.get("code"), str(item.get("message", "no message")))
                yield kind, item

    async def _get(self, path: str, query: Mapping[str, str], silence_s: float) -> AsyncIterator[bytes]:
        """Yield the answer's bytes as they come, silent for at most `silence_s`."""
        try:
            # Read each time: a token is valid for an hour, and its file is replaced long before.
            headers = {"authorization": f"Bearer {self._token.read_text(encoding='ascii').strip()}"}
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"no service account token in {self._token}") from error
        timeout = httpx2.Timeout(ANSWER_TIMEOUT_S, read=silence_s)
        try:
            async with self._client.stream("GET", path, params=query, headers=headers, timeout=timeout) as answer:
                if answer.status_code != 200:
                    raise _problem(answer.status_code, answer.reason_phrase)
                async for chunk in answer.aiter_bytes():
                    yield chunk
        except httpx2.HTTPError as error:
            raise Unavailable(str(error) or type(error).__name__) from error


def _parse(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unavailable("the answer is not JSON") from error
    return value if isinstance(value, dict) else {}


def _problem(code: Any, message: str) -> Exception:
    """410: the version is too old. 400 and 504: the server has not seen it, after a restore of its own perhaps."""
    if code in (400, 410, 504):
        return Gone(message)
    if code in (401, 403, 404):
        hint = "may the service account list and watch?"
        return Refused("API_REFUSED", f"the API server answers {code} {message}: {hint}")
    return Unavailable(f"the API server answers {code} {message}")
