"""Checks of requests to a server of this machine: host name, origin, path, size and duration."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LATER = {"Retry-After": "5"}
"""The header that tells a client after how many seconds to retry."""


class Gate(ABC):
    """ASGI middleware that passes only valid requests; it refuses others with one line of text.

    Args:
        app: answers the requests that pass.
        names: host names of the server; a web page of another name cannot reach it, even if that name
            resolves to this machine.
        any_address: also accept requests to any IP address instead of a name.
        room: most bytes of requests held at once, of all visitors together; None: no limit.
    """

    headers: Mapping[str, str] = {"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    """Headers of all responses."""
    another_name: str
    """What to do if a request names a host that the server is not."""

    def __init__(
        self, app: ASGIApp, names: Iterable[str], *, any_address: bool, room: int | None = None
    ) -> None:
        self.app = app
        self.names = frozenset(name.lower().rstrip(".") for name in names)
        self.any_address = any_address
        self.room = room
        self.held = 0

    @abstractmethod
    def bound(self, path: str) -> tuple[int, float]:
        """Most bytes of a request, and the seconds in which it has to arrive, from headers to last byte."""

    @abstractmethod
    def refused(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        """The response to a request that does not pass."""

    @abstractmethod
    def failed(self, scope: Scope, error: Exception) -> None:
        """Log an error that no handler caught; the client already has a response."""

    def unknown(self, scope: Scope) -> tuple[int, str] | None:
        """Status and text if the server has no such method or path; None: the request passes."""
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        # Websockets are not used; one that is not accepted is refused with 403.

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        most, seconds = self.bound(scope["path"])
        length = headers.get("content-length", "0")
        if refusal := self._refusal(scope, headers):
            await self.refused(*refusal)(scope, receive, send)
            return
        if not length.isdecimal() or int(length) > most:
            await self.refused(413, f"too large; at most {most:,} bytes are taken here")(scope, receive, send)
            return
        if self._is_full(int(length)):
            await self.refused(503, _FULL, LATER)(scope, receive, send)
            return
        taken, whole, until = 0, False, asyncio.get_running_loop().time() + seconds
        reserved = int(length)
        self.held += reserved

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        async def counted() -> Message:
            nonlocal taken, whole, reserved
            if whole:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                # Do not wait for the rest of the request.
                raise HTTPException(408, f"not whole after {seconds:g} s", {"Connection": "close"}) from error
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > most:
                raise HTTPException(413, f"more than {most:,} bytes")
            if (more := taken - reserved) > 0:
                if self._is_full(more):
                    raise HTTPException(503, _FULL, LATER)
                self.held += more
                reserved += more
            return message

        try:
            await self.app(scope, counted, with_headers)
        except Exception as error:
            self.failed(scope, error)
        finally:
            self.held -= reserved

    def _is_full(self, more: int) -> bool:
        return self.room is not None and self.held + more > self.room

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        hosts = [headers.get("host", "")]
        # The host that a proxy forwards ends up in the links of the response.
        if forwarded := headers.get("x-forwarded-host"):
            hosts += forwarded.split(",")
        if not all(self._is_here(host.strip()) for host in hosts):
            return 421, self.another_name
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in (host.strip() for host in hosts):
            return 403, "asked by a web page of another origin"
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] == "POST":
            return 403, "asked by a web page of another site"
        return self.unknown(scope)

    def _is_here(self, host: str) -> bool:
        name = re.sub(r":\d*$", "", host).removeprefix("[").removesuffix("]").lower().rstrip(".")
        if name in self.names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_address or address.is_loopback


_FULL = "too many requests are held already; ask again later"


def names_of(host: str) -> tuple[set[str], bool]:
    """Names of a server that listens at ``host``, and whether it listens at any IP address of the machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return {host, "localhost"}, False
    if address.is_loopback:
        return {"localhost"}, False
    if address.is_unspecified:
        return {"localhost", socket.gethostname(), socket.getfqdn()}, True
    return {host, "localhost", socket.gethostname(), socket.getfqdn()}, False
