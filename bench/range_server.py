"""A web server of one folder that serves byte ranges after a pause: a local stand-in for an object store.

    python -m maris_fast.bench.range_server FOLDER --latency 0.02

It prints its port and serves until it is killed.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class RangeServer(ThreadingHTTPServer):
    """Serves the files of ``folder`` on a free port of 127.0.0.1, each request after ``latency`` seconds."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        folder: Path,
        latency: float = 0.0,
        handler: type[RangeHandler] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler or RangeHandler)
        self.folder, self.latency = folder, latency

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class RangeHandler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.server.latency)
        path = self.server.folder / unquote(self.path).rpartition("/")[2]
        if not path.is_file():
            self.refuse(404)
            return
        part, size = _RANGE.fullmatch(self.headers.get("Range") or ""), path.stat().st_size
        if part and int(part[1]) >= size:
            self.refuse(416)
            return
        with path.open("rb") as file:
            start, stop = self._asked_for(path.stat().st_size)
            self.wfile.flush()
            while self.command == "GET" and start < stop:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)

    def refuse(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked_for(self, size: int) -> tuple[int, int]:
        """Send the response headers; return the start and stop of the requested bytes."""
        part = _RANGE.fullmatch(self.headers.get("Range") or "")
        start, stop = (int(part[1]), min(int(part[2]) + 1, size)) if part else (0, size)
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Last-Modified", self.date_time_string(0))
        if part:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        return start, stop

    def log_message(self, *_: object) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    with RangeServer(options.folder, options.latency) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
