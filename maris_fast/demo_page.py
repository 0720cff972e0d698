"""The demo's page: Gradio's widgets around ``maris_fast.demo``, and the server that shows it."""

from __future__ import annotations

import html
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from PIL import Image

from maris_fast.demo import Answer, Demo, sentences_of
from maris_fast.errors import ConfigError, MarisError

FROM_HERE = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "form-action 'self'; base-uri 'self'; object-src 'none'"
)
"""Content-Security-Policy: whatever Gradio's page asks, the browser talks to this server only."""

CSS = ".gradio-container { width: 100%; max-width: 1200px !important; margin: auto; }"


def page(demo: Demo, title: str, examples: Sequence[Path] = ()) -> gr.Blocks:
    """The widgets; events ``/segment`` and ``/attention`` are there for programs too.

    Args:
        title: of the page, such as the weights' name.
        examples: photographs to choose from.
    """

    def segment(photo: str | None, sentences: str) -> tuple[list[tuple[Image.Image, str]], list[str], str]:
        with _told():
            answer = demo.segment(_path(photo), sentences)
        captioned = [
            (picture, f"{text}: {share:.1%} of the image")
            for picture, text, share in zip(answer.pictures, answer.sentences, answer.shares, strict=True)
        ]
        return captioned, _saved(answer, Path(photo or "").stem), _seconds(answer)

    def attention(
        photo: str | None, sentence: str | None, x: float | None, y: float | None
    ) -> list[tuple[Image.Image, str]]:
        with _told():
            return demo.attention(_path(photo), sentence or "", *(_whole(one) for one in (x, y)))

    with gr.Blocks(title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# Referring image segmentation\n`{title}`")
        if demo.predictor.caution:
            gr.Markdown(f"**Note:** {demo.predictor.caution}.")
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.Image(
                    label="Photograph", type="filepath", sources=["upload", "clipboard"], height=360
                )
                # Handed on unread: what is wrong with a file, load_image says. (Gradio writes a .pyi file
                # beside a module that has a subclass.)
                photo.preprocess = _unread
                sentences = gr.Textbox(
                    label="Sentences, one a line", lines=3, placeholder="the dog on the left"
                )
                button = gr.Button("Segment", variant="primary")
                if examples:
                    gr.Examples([[str(one)] for one in examples], [photo], label="Examples")
            with gr.Column(scale=3), gr.Tabs():
                with gr.Tab("Masks"):
                    pictures = gr.Gallery(
                        label="Masks over the photograph",
                        columns=2,
                        object_fit="contain",
                        buttons=["fullscreen"],
                    )
                    seconds = gr.Markdown()
                    files = gr.File(label="Masks as PNG", interactive=False)
                with gr.Tab("Attention") as attention_tab:
                    gr.Markdown("Which words a spot of the photograph listens to, and where each word looks.")
                    sentence = gr.Dropdown(label="Sentence", allow_custom_value=True)
                    with gr.Row():
                        x = gr.Number(label="x of the spot", precision=0, value=None, min_width=80)
                        y = gr.Number(label="y of the spot", precision=0, value=None, min_width=80)
                    gr.Markdown("Click the photograph to choose a spot; without one it is inside the mask.")
                    look = gr.Button("Show attention", variant="primary")
                    sheets = gr.Gallery(
                        label="Attention", columns=1, object_fit="contain", buttons=["fullscreen"]
                    )
        button.click(segment, [photo, sentences], [pictures, files, seconds], api_name="segment")
        look.click(attention, [photo, sentence, x, y], sheets, api_name="attention")
        beside = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        photo.select(_spot, None, [x, y], **beside)
        photo.change(
            lambda: (None, None, None, None, "", None),
            None,
            [x, y, pictures, files, seconds, sheets],
            **beside,
        )
        gr.on([attention_tab.select, sentences.blur], _choices, [sentences, sentence], sentence, **beside)
    return blocks


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
            "name another with --host and --port (0: any free)"
        ) from error
    with listener:
        yield listener


def serve(
    demo: Demo,
    title: str,
    listener: socket.socket,
    *,
    examples: Sequence[Path] = (),
    started: Callable[[str], None],
) -> None:
    """Show the page until interrupted. Uploads and masks lie in a temporary folder that is gone afterwards.

    Args:
        title, examples: as ``page`` takes them.
        listener: as ``listening`` gives it.
        started: is told the page's address once it can be opened.

    Raises:
        KeyboardInterrupt: by Ctrl-C.
    """
    with tempfile.TemporaryDirectory(prefix="maris-fast-demo-") as folder:
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        app.middleware("http")(_from_here)
        gr.mount_gradio_app(
            app,
            page(demo, title, examples),
            "/",
            footer_links=["settings"],
            allowed_paths=[str(one.resolve()) for one in examples],
            ssr_mode=False,
            theme=gr.themes.Default(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=CSS,
        )
        server = _Server(
            # A page that is open in a browser holds a connection; Ctrl-C does not wait for it.
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1),
            lambda: started(_address(listener)),
        )
        server.run(sockets=[listener])


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


async def _from_here(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await answer(request)
    response.headers["Content-Security-Policy"] = FROM_HERE
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@contextmanager
def _told() -> Iterator[None]:
    """An error that a person can act on is shown on the page, and not as a traceback in the terminal."""
    try:
        yield
    except MarisError as error:
        # Gradio shows the text as HTML, and it may quote a sentence.
        text = html.escape(str(error), quote=False)
        raise gr.Error(text, duration=None, print_exception=False) from error


def _unread(payload: Any) -> str | None:
    return None if payload is None else payload.path


def _path(photo: str | None) -> Path | None:
    return None if photo is None else Path(photo)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _saved(answer: Answer, stem: str) -> list[str]:
    """Paths of the masks as PNG, black and white, named as ``maris-fast predict`` names them."""
    folder = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
    paths = [folder / f"{stem}-{number}-mask.png" for number in range(1, len(answer.masks) + 1)]
    for path, mask in zip(paths, answer.masks, strict=True):
        Image.fromarray(mask).save(path)
    return [str(path) for path in paths]


def _seconds(answer: Answer) -> str:
    number = len(answer.sentences)
    sentences = f"{number} sentence{'s' if number > 1 else ''} in {answer.sentences_seconds:.2f} s"
    if answer.encoding_seconds is None:
        return f"{sentences}; the photograph had been encoded before"
    return f"photograph encoded in {answer.encoding_seconds:.2f} s, {sentences}"


def _spot(event: gr.SelectData) -> tuple[int, int]:
    x, y = event.index
    return int(x), int(y)


def _choices(sentences: str, chosen: str | None) -> Any:
    lines = sentences_of(sentences)
    return gr.Dropdown(choices=lines, value=chosen if chosen in lines else next(iter(lines), None))
