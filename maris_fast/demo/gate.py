"""Who may ask the demo's page what: names of the page, pages that may call it, paths, and sizes.

All that Gradio can do beyond this page (download for a visitor, keep links, run tools) has no path through
here. Refusals are one line of text.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="
MOST_UPLOADED = 32 << 20
"""Bytes of an upload."""
UPLOAD_SECONDS = 120.0
"""In which it has to come, from its headers to its last byte."""
MOST_ASKED = 64 << 10
"""Bytes of any other request."""
ASKED_SECONDS = 20.0

FROM_HERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
"""Content-Security-Policy: whatever Gradio's page asks, the browser talks to this server only."""

_PATHS = {
    "GET": (
        r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.+|"
        r"/gradio_api/(info/?|theme\.css|startup-events|heartbeat/\w+|queue/(data|status)|file=.+|"
        r"call/\w+/\w+|login_check/?|user/?|app_id/?)"
    ),
    "POST": (r"/gradio_api/(upload|queue/join|cancel|reset/?|run/\w+/?|api/\w+/?|call/\w+/?|call/v2/\w+/?)"),
}
_PATHS["HEAD"] = _PATHS["GET"]


class Gate:
    """Lets through what the page's own scripts and ``gradio_client`` ask.

    Args:
        app: answers what comes through.
        names: host names that the page has; a web page of another name cannot reach it, even if that name
            leads to this machine.
        any_address: the page also answers where it is asked by any IP address instead of a name.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str], *, any_address: bool) -> None:
        self.app = app
        self.names = frozenset(name.lower().rstrip(".") for name in names)
        self.any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        # A websocket that is not accepted is refused with 403; the page has none.

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if refusal := self._refusal(scope, headers):
            await refusal(scope, receive, send)
            return
        uploads = scope["path"] == UPLOAD
        most, seconds = (MOST_UPLOADED, UPLOAD_SECONDS) if uploads else (MOST_ASKED, ASKED_SECONDS)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > most:
            await _too_large(most)(scope, receive, send)
            return
        taken, whole, until = 0, False, asyncio.get_running_loop().time() + seconds

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["Content-Security-Policy"] = FROM_HERE
                answer["Referrer-Policy"] = "no-referrer"
                answer["X-Content-Type-Options"] = "nosniff"
            await send(message)

        async def counted() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                # Whatever still comes is not waited for.
                raise HTTPException(408, f"not whole after {seconds:g} s", {"Connection": "close"}) from error
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > most:
                raise HTTPException(413, f"more than {most:,} bytes")
            return message

        try:
            await self.app(scope, counted, with_headers)
        except Exception as error:
            # The visitor has been told of an error; strangers write no pages of traceback in this terminal.
            log.warning("%s %r: %r", scope["method"], scope["path"][:80], error)

    def _refusal(self, scope: Scope, headers: Headers) -> PlainTextResponse | None:
        hosts = [headers.get("host", "")]
        # What a proxy says that it was asked for ends up in the links of the answer.
        if forwarded := headers.get("x-forwarded-host"):
            hosts += forwarded.split(",")
        if not all(self._is_here(host.strip()) for host in hosts):
            return PlainTextResponse(
                "this page has another name; open the address that maris-fast demo printed, "
                "or start it with `maris-fast demo --allow-host NAME`\n",
                421,
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in (host.strip() for host in hosts):
            return PlainTextResponse("asked by a web page of another origin\n", 403)
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] == "POST":
            return PlainTextResponse("asked by a web page of another site\n", 403)
        paths = _PATHS.get(scope["method"])
        if paths is None:
            return PlainTextResponse("no such method here\n", 405)
        if not re.fullmatch(paths, scope["path"]) or "deep_link" in parse_qs(
            scope["query_string"].decode("latin-1")
        ):
            return PlainTextResponse("no such address on this page\n", 404)
        return None

    def _is_here(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host).removeprefix("[").removesuffix("]").lower().rstrip(".")
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback


def names_of(host: str) -> tuple[set[str], bool]:
    """Names of a page that listens at ``host``, and whether it has any IP address of the machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return {host, "localhost"}, False
    if address.is_loopback:
        return {"localhost"}, False
    if address.is_unspecified:
        return {"localhost", socket.gethostname(), socket.getfqdn()}, True
    return {host, "localhost", socket.gethostname(), socket.getfqdn()}, False


def _too_large(most: int) -> PlainTextResponse:
    return PlainTextResponse(f"too large; this page takes {most:,} bytes here at most\n", 413)
