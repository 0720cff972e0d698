"""A page as Chromium shows it: console output, pictures that do not load, and width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# The page is shown in a frame of the wanted width, as Chromium's windows are at least 500 pixels wide.
FRAME = """<!DOCTYPE html><link rel="icon" href="data:,"><body style="margin: 0">
<iframe src="{page}" style="border: 0; width: {width}px; height: 800px"></iframe><pre></pre>
<script>
document.querySelector("iframe").addEventListener("load", event => {{
  const view = event.target.contentWindow, page = view.document;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const found = {{
    pictures: page.images.length,
    missing: [...page.images].filter(one => !one.complete || !one.naturalWidth).map(one => one.alt),
    width: view.innerWidth,
    scrollWidth: page.scrollingElement.scrollWidth,
    asked: (({{ view, page }}) => {{ {ask} }})({{ view, page }}),
  }};
  document.querySelector("pre").textContent = JSON.stringify(found);
}});
</script>"""


@dataclass(frozen=True)
class Seen:
    """``console``: lines of any level; ``missing``: alt texts of unloaded pictures; ``asked``: the answer."""

    console: list[str]
    pictures: int
    missing: list[str]
    width: int
    scroll_width: int
    asked: Any


def chromium() -> str:
    """The path of Chromium; skips the test if it is not installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH; install chromium to have pages opened")
    return found


def opened(page: Path, *, width: int, ask: str = "return null") -> Seen:
    """Open a page ``width`` pixels wide; ``ask`` is the body of a JavaScript function of view and page."""
    browser = chromium()
    frame = page.with_name(f"{page.stem}-frame.html")
    frame.write_text(FRAME.format(page=page.name, width=width, ask=ask))
    with _served(page.parent) as address:
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
        command += ["--virtual-time-budget=10000", f"--window-size={max(width, 800)},900", "--dump-dom"]
        done = subprocess.run(
            [*command, f"{address}/{frame.name}"], capture_output=True, text=True, timeout=120, check=True
        )
    answer = re.search(r"<pre>(.+?)</pre>", done.stdout, re.DOTALL)
    assert answer, f"the page never loaded:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    found = json.loads(unescape(answer[1]))
    return Seen(
        console=[line for line in done.stderr.splitlines() if ":CONSOLE" in line],
        pictures=found["pictures"],
        missing=found["missing"],
        width=found["width"],
        scroll_width=found["scrollWidth"],
        asked=found["asked"],
    )


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Serve the folder over HTTP on localhost: opened as a file, a page may not access its frame."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
