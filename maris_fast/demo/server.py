"""The server that shows the demo's page until it is interrupted."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
from fastapi import FastAPI, Request, Response
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse

from maris_fast.demo.answers import Demo
from maris_fast.demo.gate import FILE, UPLOAD, PageGate
from maris_fast.demo.page import page
from maris_fast.demo.served import ServedFiles
from maris_fast.errors import InputError
from maris_fast.web.gate import names_of
from maris_fast.web.listening import Server, address_of, settings

STYLE = Path(__file__).with_name("page.css")


def application(demo: Demo, served: ServedFiles, title: str, examples: Sequence[Path] = ()) -> FastAPI:
    """Gradio's page, with this project's own routes for uploads and files.

    Args:
        served: holds the files that visitors upload and get.
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
        # A visitor's file must never run as a page of this server.
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
        # Not as `css`, which applies only inside the page; errors are shown outside it.
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
    """Serve the page until interrupted. Uploads and masks are in a temporary folder, removed afterwards.

    Args:
        title, examples: as ``page`` takes them.
        listener: as ``listening`` yields it.
        host: where it listens; the page accepts this host name and those of this machine.
        allowed_hosts: other host names that it accepts.
        started: called with the page's address once it can be opened.

    Raises:
        KeyboardInterrupt: on Ctrl-C.
    """
    names, any_address = names_of(host)
    # A thread may still be writing when the folder is removed.
    with tempfile.TemporaryDirectory(prefix="maris-fast-demo-", ignore_cleanup_errors=True) as folder:
        app = application(demo, ServedFiles(Path(folder)), title, examples)
        gate = PageGate(app, {*names, *allowed_hosts}, any_address=any_address)
        Server(settings(gate), lambda: started(address_of(listener))).run(sockets=[listener])
