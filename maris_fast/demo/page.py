"""The demo's widgets, and checks of what Gradio accepts from a visitor and returns."""

from __future__ import annotations

import asyncio
import html
import math
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import gradio as gr
from gradio_client.utils import is_file_obj_with_meta, traverse
from PIL import Image

from maris_fast.demo.answers import Answer, Demo, photograph, sentences_of
from maris_fast.demo.gate import FILE
from maris_fast.demo.served import ServedFiles
from maris_fast.demo.turns import Turns
from maris_fast.errors import InputError, MarisError

AT_ONCE = 4
"""Requests computed concurrently, so that one large photograph does not hold up the others."""
ERROR_SECONDS = 20.0
"""How long an error is shown."""

_Result = TypeVar("_Result")


class Page(gr.Blocks):
    """Widgets that accept nothing but text, numbers, and photographs that were uploaded here.

    Gradio treats any value that looks like a description of a file as a file, in a text widget as well, and
    copies it from its path to where visitors can fetch it. So input is parsed here instead: a photograph's
    name is looked up in ``served``, and any other value that is neither text nor number is refused.
    """

    def __init__(self, served: ServedFiles, **settings: Any) -> None:
        super().__init__(**settings)
        self.served = served
        # Mounted in another app, Gradio never sets this, and without it its own check accepts all paths.
        self.has_launched = True

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:
        with _told():
            if len(inputs) != len(block_fn.inputs):
                raise InputError(f"{len(inputs)} values; expected {len(block_fn.inputs)}")
            return [self._taken(block, value) for block, value in zip(block_fn.inputs, inputs, strict=True)]

    async def postprocess_data(self, block_fn: Any, predictions: Any, state: Any) -> list[Any]:
        return self.named(await super().postprocess_data(block_fn, predictions, state))

    def named(self, output: Any) -> Any:
        """The output with names of files in place of their paths."""
        return traverse(output, self._named_file, is_file_obj_with_meta)

    def _named_file(self, file: dict[str, Any]) -> dict[str, Any]:
        name = self.served.name_of(file["path"])
        return {**file, "path": name, "url": FILE + quote(name)}

    def _taken(self, block: Any, value: Any) -> Path | str | float | None:
        if value is None:
            return None
        if isinstance(block, gr.Image):
            return self.served.path(value.get("path") if isinstance(value, dict) else None)
        if isinstance(block, gr.Number | gr.Dataset):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{block.label or 'number'} is not a number")
            return value
        if not isinstance(value, str):
            raise InputError(f"{block.label} is not text; expected text only")
        return value


def page(demo: Demo, served: ServedFiles, title: str, examples: Sequence[Path] = ()) -> Page:
    """The widgets; programs can call the events ``/segment`` and ``/attention`` too.

    Args:
        served: holds the files that visitors upload and get.
        title: title of the page, such as the weights' name.
        examples: photographs to choose from; they are copied.
    """
    chosen = [served.path(served.add(one.name, one.read_bytes(), stays=True)) for one in examples]
    gr.set_static_paths([served.folder])  # Gradio does not copy files in there again

    beside = _Beside()

    async def segment(
        photo: Path | None, sentences: str | None
    ) -> tuple[list[tuple[str, str]], list[str], str]:
        with _told():
            return await beside(_segment, demo, served, photo, sentences or "")

    async def attention(
        photo: Path | None, sentence: str | None, x: float | None, y: float | None
    ) -> list[tuple[str, str]]:
        with _told():
            return await beside(_attention, demo, served, photo, sentence or "", _whole(x), _whole(y))

    def example(number: float | None) -> str:
        with _told():
            if number not in range(len(chosen)):
                raise InputError(f"no such example; there are {len(chosen)}")
            return str(chosen[int(number or 0)])

    with Page(served, title=title, analytics_enabled=False) as blocks:
        gr.Markdown(f"# Referring image segmentation\n`{title}`")
        if demo.predictor.caution:
            gr.Markdown(f"**Note:** {demo.predictor.caution}.")
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.Image(
                    label="Photograph", type="filepath", sources=["upload", "clipboard"], height=360
                )
                sentences = gr.Textbox(
                    label="Sentences, one per line", lines=3, placeholder="the dog on the left"
                )
                button = gr.Button("Segment", variant="primary")
                if chosen:
                    dataset = gr.Dataset(
                        label="Examples",
                        components=[photo],
                        samples=[[str(one)] for one in chosen],
                        type="index",
                    )
                    dataset.samples = blocks.named(dataset.samples)
            with gr.Column(scale=3), gr.Tabs():
                with gr.Tab("Masks"):
                    pictures = gr.Gallery(
                        label="Masks over the photograph",
                        columns=3,
                        height="auto",
                        object_fit="contain",
                        buttons=["fullscreen"],
                    )
                    seconds = gr.Markdown()
                    files = gr.File(label="Masks as PNG", interactive=False)
                with gr.Tab("Attention") as attention_tab:
                    gr.Markdown("Which words a pixel attends to, and where each word attends.")
                    sentence = gr.Dropdown(label="Sentence", allow_custom_value=True)
                    with gr.Row():
                        x = gr.Number(label="Pixel x", precision=0, value=None, min_width=80)
                        y = gr.Number(label="Pixel y", precision=0, value=None, min_width=80)
                    gr.Markdown("Click the photograph to choose a pixel; without one it is inside the mask.")
                    look = gr.Button("Show attention", variant="primary")
                    sheets = gr.Gallery(
                        label="Attention",
                        columns=1,
                        height="auto",
                        object_fit="contain",
                        buttons=["fullscreen"],
                    )
        model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": AT_ONCE}
        button.click(segment, [photo, sentences], [pictures, files, seconds], api_name="segment", **model)
        look.click(attention, [photo, sentence, x, y], sheets, api_name="attention", **model)
        unqueued: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        if chosen:
            dataset.click(example, dataset, photo, **unqueued)
        # A file that browsers cannot show, such as an SVG drawing named .png, leaves an empty frame.
        taken = photo.upload(_require_photograph, photo, None, **unqueued)
        taken.failure(lambda: None, None, photo, **unqueued)
        photo.select(_pixel, None, [x, y], **unqueued)
        photo.change(
            lambda: (None, None, None, None, "", None),
            None,
            [x, y, pictures, files, seconds, sheets],
            **unqueued,
        )
        gr.on([attention_tab.select, sentences.blur], _choices, [sentences, sentence], sentence, **unqueued)
    blocks.queue(api_open=False)
    blocks._queue = Turns(blocks)
    return blocks


@contextmanager
def _told() -> Iterator[None]:
    """Show errors that a user can act on in the page, and not as a traceback in the terminal."""
    try:
        yield
    except MarisError as error:
        # Gradio shows the text as HTML, and it may quote a sentence.
        text = html.escape(str(error), quote=False)
        raise gr.Error(text, duration=ERROR_SECONDS, print_exception=False) from error


class _Beside:
    """Runs work in threads that do not delay the exit of the program, at most ``AT_ONCE`` of them."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, work: Callable[..., _Result], *inputs: Any) -> _Result:
        loop, future = asyncio.get_running_loop(), Future[_Result]()

        def run() -> None:
            try:
                future.set_result(work(*inputs))
            except BaseException as error:
                # `error`, its traceback, this frame and `future` refer to each other: until the collector
                # comes, the frames below would keep a GPU's tensors.
                traceback.clear_frames(error.__traceback__)
                future.set_exception(error)
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._free.release)

        await self._free.acquire()
        threading.Thread(target=run, daemon=True, name="maris-fast-demo").start()
        # A visitor who leaves cancels this wait; the thread keeps its place until it is done.
        return await asyncio.shield(asyncio.wrap_future(future))


def _segment(
    demo: Demo, served: ServedFiles, photo: Path | None, sentences: str
) -> tuple[list[tuple[str, str]], list[str], str]:
    answer = demo.segment(photo, sentences)
    stem = photo.stem if photo else ""
    captioned = [
        (str(served.add_picture(f"{stem}-{number}.webp", picture)), f"{text}: {share:.1%} of the image")
        for number, (picture, text, share) in enumerate(
            zip(answer.pictures, answer.sentences, answer.shares, strict=True), start=1
        )
    ]
    masks = [
        str(served.add_picture(f"{stem}-{number}-mask.png", Image.fromarray(mask)))
        for number, mask in enumerate(answer.masks, start=1)
    ]
    return captioned, masks, _seconds(answer)


def _attention(
    demo: Demo, served: ServedFiles, photo: Path | None, sentence: str, x: int | None, y: int | None
) -> list[tuple[str, str]]:
    return [
        (str(served.add_picture(f"attention-{number}.webp", picture)), caption)
        for number, (picture, caption) in enumerate(demo.attention(photo, sentence, x, y), start=1)
    ]


def _require_photograph(photo: Path | None) -> None:
    with _told():
        photograph(photo)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _seconds(answer: Answer) -> str:
    number = len(answer.sentences)
    sentences = f"{number} sentence{'s' if number > 1 else ''} in {answer.sentences_seconds:.2f} s"
    if answer.encoding_seconds is None:
        return f"{sentences}; the photograph had been encoded before"
    return f"photograph encoded in {answer.encoding_seconds:.2f} s, {sentences}"


def _pixel(event: gr.SelectData) -> tuple[int, int]:
    with _told():
        match event.index:
            case [int() | float() as x, int() | float() as y] if math.isfinite(x) and math.isfinite(y):
                return int(x), int(y)
        raise InputError("no pixel; expected x and y")


def _choices(sentences: str | None, chosen: str | None) -> Any:
    lines = sentences_of(sentences or "")
    return gr.Dropdown(choices=lines, value=chosen if chosen in lines else next(iter(lines), None))
