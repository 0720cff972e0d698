"""A stand-in for the Hugging Face Hub that handles the requests of huggingface_hub and our reader."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

TOKEN = "hf_secret"
LARGE = (".safetensors", ".tar", ".npz")
_COMMIT = re.compile(
    r"/api/(?:models/)?(?P<repo>(?:datasets/)?[^/]+/[^/]+)/(?P<what>preupload|commit|tree)/(?P<revision>[^/?]+)"
)
_FILE = re.compile(r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")


@dataclass
class Repository:
    """``commits``: the names of all files after each commit."""

    private: bool = False
    gated: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    commits: list[set[str]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class Hub:
    """Attributes:
    repositories: by ``org/name``, or ``datasets/org/name`` for data sets.
    status: if not None, every response has this status.
    requests: method and path of each request.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    status: int | None = None
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None: ...

    def _serve(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        hub.requests.append(f"{self.command} {path}")
        if hub.status is not None:
            self._answer(hub.status, {"error": "so it is"})
        elif found := _FILE.fullmatch(path):
            self._file(**found.groupdict())
        elif self.command == "PUT":
            hub.large[path.rpartition("/")[2]] = body
            self._answer(200, {})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials in Authorization header"})
        else:
            self._of_users(path, body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def _file(self, repo: str, revision: str, name: str) -> None:
        repository = self.server.hub.repositories.get(repo)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self._answer(404 if known else 401, {"error": "Repository not found"}, code="RepoNotFound")
        elif repository.gated:
            self._answer(403, {"error": "Access is restricted"}, code="GatedRepo")
        elif revision not in ("main", repository.sha):
            self._answer(404, {"error": "Invalid rev id"}, code="RevisionNotFound")
        elif name not in repository.files:
            self._answer(404, {"error": "Entry not found"}, code="EntryNotFound", commit=repository.sha)
        elif asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            content, first, last = repository.files[name], int(asked[1]), int(asked[2])
            part = content[first : last + 1]
            at = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
            self._answer(206, part, commit=repository.sha, at=at)
        else:
            self._answer(200, repository.files[name], commit=repository.sha)

    def _of_users(self, path: str, body: bytes) -> None:
        hub = self.server.hub
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if asked.get("type") == "dataset":
                name = f"datasets/{name}"
            there = name in hub.repositories
            private = asked.get("private") or asked.get("visibility") == "private"
            hub.repositories.setdefault(name, Repository(private=bool(private)))
            self._answer(409 if there else 200, {"url": f"{hub.url}/{name}"})
        elif path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.url}/large/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif found := _COMMIT.fullmatch(path):
            self._of_a_commit(found["what"], found["repo"], body)
        else:
            name = path.removeprefix("/api/").removeprefix("models/")
            repository = hub.repositories[name]
            self._answer(
                200,
                {"id": name.removeprefix("datasets/"), "sha": repository.sha, "private": repository.private},
            )

    def _of_a_commit(self, what: str, name: str, body: bytes) -> None:
        repository = self.server.hub.repositories[name]
        if what == "tree":
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in repository.files.items()
            ]
            self._answer(200, files)
        elif what == "preupload":
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if Path(one["path"]).suffix in LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        else:
            for line in body.splitlines():
                self._take(repository, **json.loads(line))
            repository.commits.append(set(repository.files))
            page = f"{self.server.hub.url}/{name}/commit/{repository.sha}"
            self._answer(200, {"commitUrl": page, "commitOid": repository.sha})

    def _take(self, repository: Repository, key: str, value: dict[str, Any]) -> None:
        if key == "header":
            repository.messages.append(value["summary"])
        elif key == "file":
            repository.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            content = self.server.hub.large[value["oid"]]
            assert hashlib.sha256(content).hexdigest() == value["oid"]
            repository.files[value["path"]] = content
        else:
            assert key == "deletedFile"
            del repository.files[value["path"]]

    def _answer(
        self, status: int, content: object, *, code: str = "", commit: str = "", at: str = ""
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if code:
            self.send_header("X-Error-Code", code)
        if at:
            self.send_header("Content-Range", at)
        if commit:
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = Hub(f"http://127.0.0.1:{self.server_port}")

    def handle_error(self, *_: object) -> None: ...  # from clients that disconnected


@contextmanager
def hub_server(environment: pytest.MonkeyPatch, home: Path) -> Iterator[Hub]:
    """Serve in place of the Hub, for this process and those it starts; no user is logged in.

    Args:
        home: folder for huggingface_hub's cache and token.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    server = _Server()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    # huggingface_hub reads these when it is imported; Xet is a separate protocol, not served here.
    for name, value in {
        "HF_ENDPOINT": ("ENDPOINT", server.hub.url),
        "HF_HUB_CACHE": ("HF_HUB_CACHE", str(home / "cache")),
        "HF_TOKEN_PATH": ("HF_TOKEN_PATH", str(home / "token")),
        "HF_HUB_DISABLE_XET": ("HF_HUB_DISABLE_XET", True),
    }.items():
        environment.setenv(name, str(value[1]))
        environment.setattr(constants, *value)
    template = server.hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    environment.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Retries would wait for 23 seconds in total.
    environment.setattr(_http, "time", SimpleNamespace(time=time.time, sleep=lambda seconds: None))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        environment.delenv(name, raising=False)
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
