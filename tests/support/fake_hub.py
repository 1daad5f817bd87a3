"""The Hugging Face hub on 127.0.0.1, as far as a download speaks to it: its HTTP API, played to the real client."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

Files = dict[str, bytes]

PATIENCE_S = 300


def commit_of(files: Files) -> str:
    """Return the commit hash under which the hub has these files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


class FakeHub:
    """Repositories are lists of their commits. `main` is the first of them when it is asked for the first time, and
    one further each time after that, up to the last: as if somebody pushed meanwhile.

    `asked` has every path that was asked for; `sent` what a file is sent as where that is not what the hub has.
    """

    def __init__(self, repositories: dict[str, list[Files]]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []
        self.sent: Files = {}
        self._looks = dict.fromkeys(repositories, 0)

    def commit(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """Return the commit that `revision`, a hash or main, is of."""
        commits = {commit_of(files): files for files in self.repositories.get(repository, [])}
        if revision == "main" and commits:
            look = self._looks[repository]
            self._looks[repository] = min(look + 1, len(commits) - 1)
            return list(commits.items())[look]
        return (revision, commits[revision]) if revision in commits else None


@contextmanager
def hub_played_by(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the hub's client in this process ask `hub`, and keep what it fetches in the folder `cache`."""
    with served(hub) as url:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        for limit in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):  # a busy machine is no reason to give up
            monkeypatch.setattr(constants, limit, PATIENCE_S)
        yield
        close_session()


@contextmanager
def served(hub: FakeHub) -> Iterator[str]:
    """Serve `hub`; yields its URL."""

    class Handler(_Handler):
        fake = hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.fake.asked.append(path)
        parts = path.strip("/").split("/")
        body: bytes | None = None
        headers: dict[str, str] = {}
        if parts[:2] == ["api", "models"] and len(parts) >= 6:
            body = self._api("/".join(parts[2:4]), parts[4], parts[5])
        elif len(parts) >= 5 and parts[2] == "resolve":
            body, headers = self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        if body is None:
            known = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]) in self.fake.repositories
            headers = {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"}
        self.send_response(404 if body is None else 200)
        for name, value in (headers | {"Content-Length": str(len(body or b""))}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and body:
            self.wfile.write(body)

    def _api(self, repository: str, what: str, revision: str) -> bytes | None:
        if (found := self.fake.commit(repository, revision)) is None:
            return None
        sha, files = found
        answer: Any = {"id": repository, "sha": sha, "siblings": [{"rfilename": name} for name in files]}
        if what == "tree":
            answer = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
        return json.dumps(answer).encode()

    def _file(self, repository: str, revision: str, name: str) -> tuple[bytes | None, dict[str, str]]:
        found = self.fake.commit(repository, revision)
        if found is None or name not in found[1]:
            return None, {}
        data = found[1][name]
        headers = {"X-Repo-Commit": found[0], "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        return self.fake.sent.get(name, data), headers
