"""Servers of a cache's files that inject faults: a plain one with range requests, and S3 by moto."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pytest

from maris_fast.bench.range_server import RangeHandler, RangeServer

Fault = int | Literal["cut", "reset", "stall", "drop", "hang", "whole"] | None
"""A status; half the body, then the end, a reset, or silence until the server stops; no answer; no byte until
the server stops; or the whole file for a range."""

BUCKET = "caches"
_SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request"}
EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@dataclass
class Faults:
    """The faults that a server injects, and the requests that it received.

    Attributes:
        of: gives the fault of a request from the file's name and the number of earlier requests for it.
        latency: seconds before each answer.
        ranges: file name and first byte of each requested range.
        most_at_once: the most requests that were waiting for an answer.
        logins: requested hosts, each with the authorization that it received.
    """

    of: Callable[[str, int], Fault] = lambda name, number: None
    latency: float = 0.0
    version: bool = False
    ranges: list[tuple[str, int]] = field(default_factory=list)
    most_at_once: int = 0
    logins: set[tuple[str, str | None]] = field(default_factory=set)
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _numbers: dict[str, int] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def met(self, name: str, part: str | None) -> Iterator[Fault]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            number = self._numbers.get(name, 0)
            self._numbers[name] = number + 1
            if part and name.endswith(".tar"):
                self.ranges.append((name, int(part.removeprefix("bytes=").partition("-")[0])))
        time.sleep(self.latency)
        # Before the answer: a client that has it may send its next request before this thread continues.
        with self._lock:
            self._now -= 1
        fault = self.of(name, number)
        if fault == "hang":
            self.ended.wait(60)
        yield fault


class FaultyHandler(RangeHandler):
    @property
    def name(self) -> str:
        return unquote(self.path).rpartition("/")[2]

    def do_GET(self) -> None:  # noqa: N802
        faults: Faults = self.server.faults  # type: ignore[attr-defined]
        faults.logins.add((self.headers["Host"].partition(":")[0], self.headers.get("Authorization")))
        if "/resolve/" in self.path:  # the Hub redirects to another host
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/{self.name}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with faults.met(self.name, self.headers.get("Range")) as fault:
            if isinstance(fault, int):
                self.refuse(fault, EXPIRED if fault == 403 else b"slow down")
            elif fault in ("drop", "hang"):
                self.close_connection = True
            elif fault in ("cut", "reset", "stall"):
                self._cut(fault)
            else:
                if fault == "whole":
                    del self.headers["Range"]
                super().do_GET()

    def _cut(self, fault: str) -> None:
        path = self.server.folder / self.name
        start, stop = self._asked_for(path.stat().st_size)
        if self.command == "GET":
            self.wfile.write(path.read_bytes()[start : (start + stop) // 2])
            if fault == "stall":
                self.server.faults.ended.wait(60)  # type: ignore[attr-defined]
            if fault == "reset":
                at_once = struct.pack("ii", 1, 0)  # linger for no time
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                self.connection.close()
        self.close_connection = True

    def end_headers(self) -> None:
        if self.server.faults.version:  # type: ignore[attr-defined]
            self.send_header("ETag", '"one"')
        super().end_headers()


class FaultyServer(RangeServer):
    def __init__(self, folder: Path, faults: Faults) -> None:
        super().__init__(folder, 0.0, FaultyHandler)
        self.faults = faults

    def handle_error(self, *_: object) -> None: ...  # of clients that disconnected


@dataclass
class Far:
    """A cache on a server.

    Attributes:
        address: the cache's address.
        stop: stops the server.
        store: for S3, a client that reaches the files without the faults.
    """

    address: str
    faults: Faults
    stop: Callable[[], None]
    store: Any = None

    def names(self) -> set[str]:
        listing = self.store.get(f"/{BUCKET}").text
        return {key.rpartition("/")[2] for key in re.findall(r"<Key>([^<]+)</Key>", listing)}

    def get(self, name: str) -> bytes:
        answer = self.store.get(f"/{BUCKET}/some/boxes/{name}", headers=_SIGNED)
        assert answer.status_code == 200
        content: bytes = answer.data
        return content

    def put(self, name: str, content: bytes) -> None:
        assert self.store.put(f"/{BUCKET}/some/boxes/{name}", data=content).status_code == 200

    def remove(self, name: str) -> None:
        assert self.store.delete(f"/{BUCKET}/some/boxes/{name}", headers=_SIGNED).status_code == 204


@contextmanager
def web_server(cache: Path, **settings: Any) -> Iterator[Far]:
    faults = Faults(**settings)
    server = FaultyServer(cache, faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def stop() -> None:
        faults.ended.set()
        server.shutdown()
        server.server_close()

    try:
        yield Far(f"{server.url}/caches/boxes", faults, stop)
    finally:
        stop()


@contextmanager
def s3_server(cache: Path, environment: pytest.MonkeyPatch, **settings: Any) -> Iterator[Far]:
    """moto's server in this process with the cache in a bucket, and credentials for it."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server
    from werkzeug.test import Client

    store = DomainDispatcherApplication(create_backend_app)
    client = Client(store)
    client.post("/moto-api/reset")  # its state belongs to the process
    client.put(f"/{BUCKET}")
    faults = Faults(**settings)

    def faulty(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        part = environ.get("HTTP_RANGE")
        with faults.met(environ["PATH_INFO"].rpartition("/")[2], part) as fault:
            if environ.get("HTTP_X_AMZ_SECURITY_TOKEN") == "expired":
                fault = 403
            if isinstance(fault, int):
                body = EXPIRED if fault == 403 else b"<Error><Code>SlowDown</Code></Error>"
                start(f"{fault} Said So", [("Content-Length", str(len(body)))])
                return [body]
            chunks = list(store(environ, start))
        if fault == "cut" and environ["REQUEST_METHOD"] == "GET":
            whole = b"".join(chunks)
            return [whole[: len(whole) // 2]]
        return chunks

    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        environment.setenv(name, value)

    def stop() -> None:
        faults.ended.set()
        server.shutdown()
        server.server_close()

    far = Far(f"s3://{BUCKET}/some/boxes", faults, stop, client)
    for path in cache.iterdir():
        if path.is_file():
            far.put(path.name, path.read_bytes())
    try:
        yield far
    finally:
        stop()


@contextmanager
def google_storage(cache: Path, environment: pytest.MonkeyPatch, folder: Path) -> Iterator[Far]:
    """The plain server in the place of Google Cloud Storage."""
    with web_server(cache, version=True) as far:
        account = {
            "gcs_base_url": far.address.removesuffix("/caches/boxes"),
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        }
        (folder / "account.json").write_text(json.dumps(account))
        environment.setenv("GOOGLE_SERVICE_ACCOUNT", str(folder / "account.json"))
        yield Far("gs://caches/boxes", far.faults, far.stop)


@contextmanager
def hub(cache: Path, environment: pytest.MonkeyPatch) -> Iterator[Far]:
    """The plain server in the Hub's place, with redirects to another host and a user who is logged in."""
    from huggingface_hub import constants

    with web_server(cache) as far:
        environment.setenv("HF_TOKEN", "secret")
        environment.setattr(constants, "ENDPOINT", far.address.removesuffix("/caches/boxes"))
        yield Far("hf://datasets/someone/boxes@v1/cache", far.faults, far.stop)
