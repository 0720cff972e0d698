"""The protocol of Label Studio's backends: ``/setup``, ``/predict`` and ``/webhook``; masks are brushes.

The sentences of a task are what its annotator writes into the interface's TextArea; else the text that the
interface takes from the task's data; else the labels themselves, one sentence each.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from xml.etree import ElementTree

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from maris_fast.images import Upload
from maris_fast.service.api import FAILURES, Failure, parsed, upload_of, while_there
from maris_fast.service.brush_rle import brush_rle
from maris_fast.service.segmenting import Segmented, Segmenting
from maris_fast.web.visitors import visitor_of

MOST_DESCRIBED = 100_000
"""Most characters of an interface's description."""
TOGETHER = 8
"""Tasks of a request that are processed concurrently."""


class Files(Protocol):
    """The files of a Label Studio server."""

    async def fetch(self, address: str) -> Upload:
        """
        Raises:
            HTTPException: the file is not available.
        """


class Setup(BaseModel):
    description: str = Field(alias="schema")


class Task(BaseModel):
    id: int | str | None = None
    data: dict[str, Any]


class Context(BaseModel):
    result: list[dict[str, Any]] | None = None


class Params(BaseModel):
    context: Context | None = None


class Tasks(BaseModel):
    tasks: list[Task]
    label_config: str
    params: Params | None = None

    @property
    def written(self) -> list[str]:
        """The texts that the annotator has just written."""
        context = self.params and self.params.context
        areas = [one for one in (context and context.result) or () if one.get("type") == "textarea"]
        values = [one.get("value") for one in areas]
        return [text for value in values if isinstance(value, dict) for text in _texts(value.get("text"))]


@dataclass(frozen=True)
class Interface:
    """A project's labeling interface: names of its tags, and keys of a task's data."""

    brush: str
    labels: tuple[str, ...]
    image: str
    image_key: str
    text_key: str | None


def router(segmenting: Segmenting, model_version: str, files: Files | None) -> APIRouter:
    """The routes of this protocol, besides the service's ``/health``.

    Args:
        files: where the images of tasks are stored; None: accept only data: URLs.
    """
    routes = APIRouter(tags=["Label Studio"], responses=FAILURES)
    undelivered = {502: {"model": Failure, "description": "Label Studio does not deliver a task's image"}}

    @routes.post("/setup")
    async def setup(request: Request) -> dict[str, str]:
        interface_of(parsed(Setup, await request.body()).description)
        return {"model_version": model_version}

    @routes.post("/webhook", status_code=201)
    async def webhook() -> dict[str, str]:
        return {}

    @routes.post("/predict", responses=undelivered)
    async def predict(request: Request) -> dict[str, Any]:
        asked = await asyncio.to_thread(parsed, Tasks, await request.body())
        interface = interface_of(asked.label_config)
        room = asyncio.Semaphore(TOGETHER)

        async def one(number: int, task: Task) -> dict[str, Any]:
            sentences = asked.written or _texts(task.data.get(interface.text_key or "")) or interface.labels
            try:
                async with room:
                    upload = await _image(task, interface, files, segmenting.settings.upload_bytes)
                    size, found = await segmenting.segment(upload, sentences, visitor_of(request), _brush)
            except HTTPException as error:
                name = number if task.id is None else task.id
                text = f"task {name}: {error.detail}"
                raise HTTPException(error.status_code, text, error.headers) from error
            return {"model_version": model_version, **_prediction(interface, size, found)}

        every = [one(number, task) for number, task in enumerate(asked.tasks, start=1)]
        return {"results": await while_there(request, _all(every))}

    return routes


async def _all(tasks: Sequence[Coroutine[Any, Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The results of all tasks, in order; the first error cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in running]


def interface_of(description: str) -> Interface:
    """
    Raises:
        HTTPException: the interface is invalid, or has no brush for an image.
    """
    if len(description) > MOST_DESCRIBED or "<!" in description.replace("<!--", ""):
        raise HTTPException(422, "the labeling interface is too long, or declares entities of its own")
    try:
        root = ElementTree.fromstring(description)
    except (ElementTree.ParseError, ValueError) as error:
        raise HTTPException(422, f"the labeling interface is not XML: {error}") from error
    images = {tag.get("name"): tag.get("value", "") for tag in root.iter("Image")}
    for brush in root.iter("BrushLabels"):
        name, image = brush.get("name"), brush.get("toName")
        labels = tuple(value for tag in brush.iter("Label") if (value := tag.get("value")))
        if name and image and labels and images.get(image, "").startswith("$"):
            texts = [tag.get("value", "") for kind in ("TextArea", "Text") for tag in root.iter(kind)]
            text_key = next((text[1:] for text in texts if text.startswith("$")), None)
            return Interface(name, labels, image, images[image][1:], text_key)
    raise HTTPException(
        422,
        'the labeling interface has no brush for an image; expected <Image name="image" value="$image"/> '
        'and <BrushLabels name="mask" toName="image"> with a <Label value="..."/>',
    )


async def _image(task: Task, interface: Interface, files: Files | None, most: int) -> Upload:
    address = task.data.get(interface.image_key)
    if not isinstance(address, str):
        raise HTTPException(422, f"its data has no text {interface.image_key!r}, where the image should be")
    if address.startswith("data:"):
        return await asyncio.to_thread(upload_of, address, most)
    if files is None:
        raise HTTPException(
            422,
            "its image is not in the request; start the service with `maris-fast serve --label-studio URL` "
            "to let it fetch the files of that server",
        )
    return await files.fetch(address)


@dataclass(frozen=True)
class _Brush:
    sentence: str
    score: float
    rle: list[int] | None
    """None for an empty mask, which cannot be a brush."""


def _brush(one: Segmented) -> _Brush:
    return _Brush(one.sentence, one.score, brush_rle(one.mask) if one.mask.any() else None)


def _prediction(interface: Interface, size: tuple[int, int], found: Sequence[_Brush]) -> dict[str, Any]:
    height, width = size
    result = [
        {
            "id": uuid.uuid4().hex[:10],
            "from_name": interface.brush,
            "to_name": interface.image,
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(one.score, 4),
            "value": {
                "format": "rle",
                "rle": one.rle,
                "brushlabels": [one.sentence if one.sentence in interface.labels else interface.labels[0]],
            },
        }
        for one in found
        if one.rle is not None
    ]
    return {"result": result, "score": round(sum(one.score for one in found) / len(found), 4)}


def _texts(value: object) -> list[str]:
    """The non-empty texts of a text or a list of texts."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [text for text in texts if isinstance(text, str) and text.strip()]
