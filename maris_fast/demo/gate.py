"""The paths of Gradio that the demo's page allows.

Gradio's other features (download for a visitor, keep links, run tools) are not reachable.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from maris_fast.web.gate import Gate
from maris_fast.web.limits import MOST_UPLOADED, UPLOAD_SECONDS

log = logging.getLogger(__name__)

UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="
MOST_ASKED = 64 << 10
"""Most bytes of a request that is not an upload."""
ASKED_SECONDS = 20.0

FROM_HERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
"""Content-Security-Policy: whatever Gradio's page requests, the browser contacts this server only."""

_PATHS = {
    "GET": (
        r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.+|"
        r"/gradio_api/(info/?|theme\.css|startup-events|heartbeat/\w+|queue/(data|status)|file=.+|"
        r"call/\w+/\w+|login_check/?|user/?|app_id/?)"
    ),
    "POST": (r"/gradio_api/(upload|queue/join|cancel|reset/?|run/\w+/?|api/\w+/?|call/\w+/?|call/v2/\w+/?)"),
}
_PATHS["HEAD"] = _PATHS["GET"]


class PageGate(Gate):
    """Passes the requests of the page's own scripts and of ``gradio_client``."""

    headers = {**Gate.headers, "Content-Security-Policy": FROM_HERE}  # noqa: RUF012
    another_name = (
        "this page has another name; open the address that maris-fast demo printed, "
        "or start it with `maris-fast demo --allow-host NAME`"
    )

    def bound(self, path: str) -> tuple[int, float]:
        return (MOST_UPLOADED, UPLOAD_SECONDS) if path == UPLOAD else (MOST_ASKED, ASKED_SECONDS)

    def refused(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        return PlainTextResponse(f"{text}\n", status, headers)

    def failed(self, scope: Scope, error: Exception) -> None:
        # Visitors must not be able to fill this terminal with tracebacks.
        log.warning("%s %r: %r", scope["method"], scope["path"][:80], error)

    def unknown(self, scope: Scope) -> tuple[int, str] | None:
        paths = _PATHS.get(scope["method"])
        if paths is None:
            return 405, "no such method here"
        if not re.fullmatch(paths, scope["path"]) or "deep_link" in parse_qs(
            scope["query_string"].decode("latin-1")
        ):
            return 404, "no such address on this page"
        return None
