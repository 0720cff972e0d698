"""The service's application, and the server that runs it until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

import maris_fast
from maris_fast.service import api, label_studio
from maris_fast.service.refusals import refused
from maris_fast.service.segmenting import Segmenting
from maris_fast.system.end_signals import asked
from maris_fast.web.gate import Gate, names_of
from maris_fast.web.limits import UPLOAD_SECONDS
from maris_fast.web.listening import Server, address_of, settings

log = logging.getLogger(__name__)


def application(segmenting: Segmenting, model_version: str, files: label_studio.Files | None) -> FastAPI:
    """The app with both protocols; ``/openapi.json`` describes them."""
    app = FastAPI(
        title="maris-fast",
        version=maris_fast.__version__,
        description="Referring image segmentation: masks of what sentences refer to in photographs.",
        docs_url=None,  # its page loads scripts from other servers
        redoc_url=None,
    )
    app.include_router(api.router(segmenting, model_version))
    app.include_router(label_studio.router(segmenting, model_version, files))
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(Exception, _failed)
    return app


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refused(error.status_code, str(error.detail), error.headers)


async def _failed(_: Request, __: Exception) -> Response:
    return refused(500, "an error of the service, which its log names")


class ServiceGate(Gate):
    """Limits requests to the size of a photograph; logs nothing of their content."""

    another_name = (
        "this service has another name; ask it by the address that maris-fast serve printed, "
        "or start it with `maris-fast serve --allow-host NAME`"
    )

    def __init__(
        self, app: FastAPI, segmenting: Segmenting, names: Iterable[str], *, any_address: bool
    ) -> None:
        super().__init__(app, names, any_address=any_address, room=segmenting.settings.room)
        self._most = segmenting.settings.request_bytes
        self._paths = set(app.openapi()["paths"])

    def bound(self, path: str) -> tuple[int, float]:
        return self._most, UPLOAD_SECONDS

    def refused(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        return refused(status, text, headers)

    def failed(self, scope: Scope, error: Exception) -> None:
        path = scope["path"] if scope["path"] in self._paths else "an unknown path"
        log.error("%s %s: %s", scope["method"], path, without_content(error))


def without_content(error: BaseException) -> str:
    """The type and origin of an error, without its message, which may quote a request."""
    places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)]
    return f"{type(error).__name__} at {' < '.join(reversed(places[-3:]))}"


def serve(
    segmenting: Segmenting,
    model_version: str,
    files: label_studio.Files | None,
    listener: socket.socket,
    *,
    host: str,
    allowed_hosts: Iterable[str] = (),
    started: Callable[[str], None],
) -> None:
    """Serve until a signal ends it; current requests then have the grace period of the settings to finish.

    Args:
        files: as ``label_studio.router`` takes them.
        listener: as ``listening`` yields it.
        host: where it listens; the service accepts this host name and those of this machine.
        allowed_hosts: other host names that it accepts.
        started: called with the address once requests are accepted.
    """
    _quiet()
    names, any_address = names_of(host)
    app = application(segmenting, model_version, files)
    gate = ServiceGate(app, segmenting, {*names, *allowed_hosts}, any_address=any_address)
    server = _Server(segmenting, gate, lambda: started(address_of(listener)))
    try:
        server.run(sockets=[listener])
    finally:
        segmenting.close()


def _quiet() -> None:
    """Silence library messages on malformed forms and images, which would quote their bytes."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"PIL\b")


class _Server(Server):
    def __init__(self, segmenting: Segmenting, gate: Gate, on_start: Callable[[], None]) -> None:
        # Clients that still wait after the grace period get an error response, which takes a moment.
        super().__init__(settings(gate, grace=segmenting.settings.grace + 5), on_start)
        self._segmenting = segmenting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_unnoticed)
        for number in asked():
            signal.signal(number, self.handle_exit)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._segmenting.end()
        await super().shutdown(sockets)


def _unnoticed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.warning("%s: %s", context["message"], without_content(error) if error else "")
