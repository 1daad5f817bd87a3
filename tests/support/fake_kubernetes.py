"""A Kubernetes API server for EndpointSlices alone: list and watch over HTTP, with versions that can grow too old."""

import json
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "llm"
PATH = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
TOKEN = "t0ken"
SELECTOR = "kubernetes.io/service-name="


def pod(name: str, address: str, ready: bool = True, terminating: bool = False) -> dict[str, Any]:
    """Return a pod's endpoint, with `ready` as a Service with publishNotReadyAddresses tells it."""
    conditions = {"ready": True, "serving": ready, "terminating": terminating}
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": name}}


class FakeKubernetes:
    """Use as a context manager. All services have one slice, and all changes are events of one history."""

    def __init__(self, folder: Path) -> None:
        """A service account is made in `folder`."""
        self.credentials = folder
        (folder / "token").write_text(f"{TOKEN}\n")
        self.requests: list[str] = []  # "list", "watch from VERSION", in order
        self.is_down = False  # every request is answered 503
        self._events: list[tuple[int, str, dict[str, Any]]] = []
        self._slices: dict[str, dict[str, Any]] = {}
        self._version = self._oldest = 100
        self._generation = 0  # of watches
        self._is_closed = False
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False  # closing waits for the last connection
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeKubernetes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self.end_watches()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def set(self, service: str, pods: Iterable[dict[str, Any]], port: int = 80, family: str = "IPv4") -> None:
        """A service has these pods from now on; none deletes its slice."""
        name, pods = f"{service}-{family.lower()}", list(pods)
        with self._changed:
            self._version += 1
            kind = "DELETED" if not pods else "MODIFIED" if name in self._slices else "ADDED"
            item = {
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/service-name": service},
                    "resourceVersion": str(self._version),
                },
                "addressType": family,
                "endpoints": pods,
                "ports": [{"name": "grpc", "port": port}],
            }
            self._slices.pop(name, None)
            if pods:
                self._slices[name] = item
            self._events.append((self._version, kind, item))
            self._changed.notify_all()

    def forget_history(self) -> None:
        """Every version so far is too old to watch from."""
        with self._changed:
            self._version += 1
            self._oldest = self._version
            self._changed.notify_all()

    def end_watches(self) -> None:
        """End all watches."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def bookmark(self) -> None:
        """Tell all watches the newest version."""
        with self._changed:
            self._version += 1
            item = {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self._version)}}
            self._events.append((self._version, "BOOKMARK", item))
            self._changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                if self.headers["authorization"] != f"Bearer {TOKEN}":
                    self.send_error(401)
                elif outer.is_down:
                    self.send_error(503)
                elif url.path != PATH or not query["labelSelector"].startswith(SELECTOR):
                    self.send_error(404)
                elif query.get("watch") == "true":
                    outer._watch(self, query)
                else:
                    outer._list(self, query["labelSelector"].removeprefix(SELECTOR))

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _list(self, handler: BaseHTTPRequestHandler, service: str) -> None:
        with self._changed:
            self.requests.append("list")
            items = [item for item in self._slices.values() if _is_of(service, item)]
            body = json.dumps({"metadata": {"resourceVersion": str(self._version)}, "items": items}).encode()
        handler.send_response(200)
        handler.send_header("content-length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _watch(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        service, seen = query["labelSelector"].removeprefix(SELECTOR), int(query["resourceVersion"])
        handler.send_response(200)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        with self._changed:
            self.requests.append(f"watch from {seen}")
            generation, until_s = self._generation, time.monotonic() + float(query["timeoutSeconds"])
        try:
            while True:
                with self._changed:
                    too_old = seen < self._oldest
                    new = [(kind, item) for version, kind, item in self._events if version > seen]
                    seen = max(seen, self._version)
                    is_over = self._is_closed or self._generation != generation or time.monotonic() > until_s
                    if not (too_old or new or is_over):
                        self._changed.wait(0.5)
                        continue
                if too_old:
                    _send(handler, {"type": "ERROR", "object": {"code": 410, "message": "too old resource version"}})
                    break
                for kind, item in new:
                    if kind == "BOOKMARK" or _is_of(service, item):
                        _send(handler, {"type": kind, "object": item})
                if is_over:
                    break
            handler.wfile.write(b"0\r\n\r\n")
        except OSError:  # the watcher is gone
            handler.close_connection = True


def _is_of(service: str, item: dict[str, Any]) -> bool:
    return bool(item["metadata"]["labels"]["kubernetes.io/service-name"] == service)


def _send(handler: BaseHTTPRequestHandler, event: dict[str, Any]) -> None:
    """Send an event in two chunks: nothing says that a chunk is a line."""
    line = json.dumps(event).encode() + b"\n"
    for part in (line[:20], line[20:]):
        handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.flush()
