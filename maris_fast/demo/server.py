"""The server that shows the demo's page until it is interrupted."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from maris_fast.demo.answers import Demo
from maris_fast.demo.connections import Connection
from maris_fast.demo.gate import FILE, UPLOAD, Gate, names_of
from maris_fast.demo.page import page
from maris_fast.demo.served import ServedFiles
from maris_fast.errors import ConfigError, InputError

STYLE = Path(__file__).with_name("page.css")


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Where the page will be; until ``serve`` has it, browsers wait.

    Args:
        port: 0 takes a free one.

    Raises:
        ConfigError: nothing can listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"no page at {host}, port {port}: {error.strerror}; "
            "name another with `host` and `port` (0: any free)"
        ) from error
    with listener:
        yield listener


def application(demo: Demo, served: ServedFiles, title: str, examples: Sequence[Path] = ()) -> FastAPI:
    """Gradio's page, with uploads and files that are this project's own.

    Args:
        served: keeps what visitors upload and are given.
        title, examples: as ``page`` takes them.
    """
    os.environ.update(GRADIO_TEMP_DIR=str(served.folder), GRADIO_ANALYTICS_ENABLED="False")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post(UPLOAD)
    async def upload(request: Request) -> Response:
        async with request.form(max_files=1, max_fields=1) as form:
            file = form.get("files")
            if not isinstance(file, UploadFile):
                return PlainTextResponse("no file; upload one photograph\n", 400)
            try:
                return JSONResponse([served.add(file.filename or "", await file.read())])
            except InputError as error:
                return PlainTextResponse(f"{error}\n", 507)

    @app.api_route(FILE + "{name:path}", methods=["GET", "HEAD"])
    def file(name: str) -> Response:
        try:
            path = served.path(name)
        except InputError as error:
            return PlainTextResponse(f"{error}\n", 404)
        # A file that a visitor made is never run as a page of this server.
        pictures = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}
        kind = pictures.get(path.suffix.lower(), "application/octet-stream")
        return FileResponse(path, media_type=kind)

    gr.mount_gradio_app(
        app,
        page(demo, served, title, examples),
        "/",
        footer_links=["settings"],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        # Not as `css`, which reaches what is inside the page alone, and errors are shown outside.
        head=f"<style>{STYLE.read_text()}</style>",
    )
    return app


def serve(
    demo: Demo,
    title: str,
    listener: socket.socket,
    *,
    host: str,
    allowed_hosts: Sequence[str] = (),
    examples: Sequence[Path] = (),
    started: Callable[[str], None],
) -> None:
    """Show the page until interrupted. Uploads and masks lie in a temporary folder that is gone afterwards.

    Args:
        title, examples: as ``page`` takes them.
        listener: as ``listening`` gives it.
        host: where it listens; the page answers to this name and those of this machine.
        allowed_hosts: other names that it answers to.
        started: is told the page's address once it can be opened.

    Raises:
        KeyboardInterrupt: by Ctrl-C.
    """
    names, any_address = names_of(host)
    # A thread may still be writing when it ends.
    with tempfile.TemporaryDirectory(prefix="maris-fast-demo-", ignore_cleanup_errors=True) as folder:
        app = application(demo, ServedFiles(Path(folder)), title, examples)
        gate = Gate(app, {*names, *allowed_hosts}, any_address=any_address)
        _Server(settings(gate), lambda: started(_address(listener))).run(sockets=[listener])


def settings(gate: Gate) -> uvicorn.Config:
    """Of the server that shows what is behind the gate."""
    return uvicorn.Config(
        gate,
        http=Connection,
        log_level="warning",
        # A page that is open in a browser holds a connection; Ctrl-C does not wait for it.
        timeout_graceful_shutdown=1,
        server_header=False,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
