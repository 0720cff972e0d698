"""The service's own protocol: ``POST /segment``, and checks that the service is up and ready."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, Request, Response
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from maris_fast.data_shards.plain_json import checked_json
from maris_fast.errors import first_of
from maris_fast.images import Upload
from maris_fast.rle import Rle
from maris_fast.service.refusals import later
from maris_fast.service.segmenting import Segmented, Segmenting
from maris_fast.service.settings import ServiceSettings
from maris_fast.web.visitors import visitor_of

ASCII_SPACES = b" \t\n\v\f\r"
"""Many programs write base64 in lines."""
MORE_FIELDS = 100
"""Fields of a form besides the sentences allowed; a form with fewer extra ones is told how many it has."""

_Result = TypeVar("_Result")
MaskFormat = Literal["rle", "png"]


class Asked(BaseModel):
    """A photograph and what to segment in it."""

    model_config = ConfigDict(extra="forbid")  # a misspelt key would otherwise be ignored

    image: str = Field(description="the photograph's file in base64, or as a data: address")
    sentences: list[str] = Field(description="what to segment, one mask each")
    format: MaskFormat = Field("rle", description="of the masks")


class Mask(BaseModel):
    """The mask of a sentence."""

    sentence: str
    score: float = Field(
        description="mean probability of the mask's pixels; of an empty mask, the largest of the image's"
    )
    area: int = Field(description="pixels of the mask")
    box: tuple[int, int, int, int] = Field(description="left, top, width, height; zeros of an empty mask")
    rle: Rle | None = Field(None, description="COCO's compressed run lengths")
    png: str | None = Field(None, description="PNG in base64, white where the sentence refers to")


class Answer(BaseModel):
    """Masks in the order of the sentences."""

    height: int = Field(description="of the photograph as it is shown, with its EXIF orientation applied")
    width: int
    masks: list[Mask]


class Failure(BaseModel):
    """What was received and what is needed."""

    error: str


class Health(BaseModel):
    """The health status, in the form that Label Studio expects."""

    status: Literal["UP"] = "UP"
    model_class: str = "maris-fast"
    model_version: str


class Ready(BaseModel):
    waiting: int = Field(description="requests in the queue")


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure, "description": text}
    for status, text in {
        408: "the request did not come whole in time",
        413: "too many bytes or pixels",
        415: "neither JSON nor a form",
        422: "an image or sentences that cannot be used",
        429: "too many requests of one address wait",
        500: "an error of the service, which its log names",
        503: "too many requests wait, one took too long, or the service is ending",
    }.items()
}

_FORM = {
    "type": "object",
    "required": ["image", "sentences"],
    "properties": {
        "image": {"type": "string", "format": "binary", "description": "the photograph's file"},
        "sentences": {
            "type": "array",
            "items": {"type": "string"},
            "description": "what to segment, a field each",
        },
        "format": {"type": "string", "enum": ["rle", "png"], "default": "rle"},
    },
}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _FORM},
        "application/json": {"schema": Asked.model_json_schema()},
    },
}


def router(segmenting: Segmenting, model_version: str) -> APIRouter:
    """The routes of this protocol."""
    routes = APIRouter()

    @routes.post(
        "/segment",
        response_model=Answer,
        responses=FAILURES,
        openapi_extra={"requestBody": _BODY},
        summary="Segment what sentences refer to in a photograph",
    )
    async def segment(request: Request) -> Response:
        upload, sentences, form = await _asked(request, segmenting.settings)
        render = as_png if form == "png" else as_rle
        (height, width), masks = await while_there(
            request, segmenting.segment(upload, sentences, visitor_of(request), render)
        )
        answer = Answer(height=height, width=width, masks=masks)
        return Response(answer.model_dump_json(exclude_none=True), media_type="application/json")

    @routes.get("/health", summary="The process answers")
    async def health() -> Health:
        return Health(model_version=model_version)

    @routes.get(
        "/ready",
        summary="New requests are taken",
        responses={
            503: {
                "model": Failure,
                "description": "the queue is full, the service is ending, or its GPU has failed",
            }
        },
    )
    async def ready() -> Ready:
        if segmenting.is_ending:
            raise later("the service is ending")
        if segmenting.is_broken:
            raise later("the GPU has failed; restart the service")
        if segmenting.places.are_full:
            raise later("the queue is full")
        return Ready(waiting=segmenting.places.waiting)

    return routes


def as_rle(one: Segmented) -> Mask:
    return _mask(one, rle=Rle.encode(one.mask))


def as_png(one: Segmented) -> Mask:
    file = io.BytesIO()
    Image.fromarray(one.mask).save(file, format="PNG")
    return _mask(one, png=base64.b64encode(file.getvalue()).decode())


def _mask(one: Segmented, **form: Any) -> Mask:
    rle = Rle.encode(one.mask)
    left, top, width, height = (int(number) for number in rle.box)
    box = (left, top, width, height)
    return Mask(sentence=one.sentence, score=round(one.score, 4), area=rle.area, box=box, **form)


async def while_there(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Await ``work``, and cancel it if the client disconnects."""
    done, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        raise HTTPException(499, "whoever asked has left")
    finally:
        for task in (done, gone):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _asked(request: Request, settings: ServiceSettings) -> tuple[Upload, Sequence[str], MaskFormat]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _of_form(request, settings)
    if kind == "application/json":
        return await asyncio.to_thread(_of_json, await request.body(), settings.upload_bytes)
    raise HTTPException(415, "expected application/json, or multipart/form-data")


def _of_json(body: bytes, most: int) -> tuple[Upload, Sequence[str], MaskFormat]:
    asked = parsed(Asked, body)
    return upload_of(asked.image, most), asked.sentences, asked.format


_Parsed = TypeVar("_Parsed", bound=BaseModel)


def parsed(kind: type[_Parsed], body: bytes) -> _Parsed:
    """
    Raises:
        HTTPException: the body is not JSON of this kind.
    """
    try:
        found: _Parsed = checked_json(kind, body)
    except ValueError as error:
        raise HTTPException(422, f"the request cannot be read: {first_of(error)}") from error
    return found


def upload_of(text: str, most: int) -> Upload:
    """The upload in a base64 text or a base64 data: URL.

    Raises:
        HTTPException: the text is neither, or holds more than ``most`` bytes.
    """
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise HTTPException(422, "the image's data: address is not in base64")
    try:
        content = base64.b64decode(text.encode("ascii").translate(None, ASCII_SPACES), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HTTPException(422, "the image is not in base64") from error
    return sized(content, most)


def sized(content: bytes, most: int) -> Upload:
    """
    Raises:
        HTTPException: the content has more than ``most`` bytes.
    """
    if len(content) > most:
        raise HTTPException(413, f"the image has {len(content):,} bytes; at most {most:,} are taken")
    return Upload(content)


class _InMemory(MultiPartParser):
    # The gate limits the size, and users' uploads must not be written to disk.
    spool_max_size = 1 << 40


async def _of_form(request: Request, settings: ServiceSettings) -> tuple[Upload, Sequence[str], MaskFormat]:
    fields = settings.sentences + MORE_FIELDS
    parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=fields)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(422, f"the form cannot be read: {error.message}") from error
    return await _of_fields(form.multi_items(), settings.upload_bytes)


async def _of_fields(
    fields: Sequence[tuple[str, UploadFile | str]], most: int
) -> tuple[Upload, Sequence[str], MaskFormat]:
    image: bytes | None = None
    sentences: list[str] = []
    form: MaskFormat = "rle"
    for name, value in fields:
        if name == "image" and isinstance(value, UploadFile) and image is None:
            image = await value.read()
        elif name == "sentences" and isinstance(value, str):
            sentences.append(value)
        elif name == "format" and value in ("rle", "png"):
            form = "png" if value == "png" else "rle"
        else:
            raise HTTPException(
                422,
                "the form cannot be read: expected one file `image`, texts `sentences`, and a `format`, "
                "rle or png, if any",
            )
    if image is None:
        raise HTTPException(422, "no image; send its file as the form's `image`")
    return sized(image, most), sentences, form
