"""The two annotation files of the RefCOCO family, read and checked for their structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from maris_fast.data_shards.importers.safe_pickle import load_plain_pickle
from maris_fast.errors import InputError


class SentenceRow(BaseModel):
    sent_id: int
    sent: str
    kind: str | None = None


class RefRow(BaseModel):
    """One referred object. The files' ``file_name`` is left out: it names images that do not exist."""

    ref_id: int
    ann_id: int
    image_id: int
    split: str = Field(pattern=r"^[A-Za-z0-9_-]+$")  # becomes a file name
    sentences: list[SentenceRow]


class ImageRow(BaseModel):
    id: int
    file_name: str
    height: int
    width: int


class AnnotationRow(BaseModel):
    id: int
    image_id: int
    category_id: int
    segmentation: Any = None  # checked for the annotations that are referred to, see masks


class CategoryRow(BaseModel):
    id: int
    name: str


class InfoRow(BaseModel):
    synthetic: bool = False


class InstancesFile(BaseModel):
    info: InfoRow = InfoRow()
    images: list[ImageRow]
    annotations: list[AnnotationRow]
    categories: list[CategoryRow]


def read_refs(path: Path) -> list[RefRow]:
    """The rows of ``refs(<split_by>).p``.

    Raises:
        InputError: no such file, not a plain pickle, or not a list of refs.
    """
    rows = load_plain_pickle(path)
    try:
        return TypeAdapter(list[RefRow]).validate_python(rows)
    except ValidationError as error:
        raise InputError(
            f"{path} is not a list of refs as RefCOCO's authors publish them: {_first(error)}"
        ) from error


def read_instances(path: Path) -> InstancesFile:
    """COCO's ``instances.json``.

    Raises:
        InputError: no such file, not JSON, or not COCO's structure.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"no file {path}; it is part of the data set beside its refs") from error
    try:
        return InstancesFile.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path} is not COCO's instances.json: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {problem['msg']}{more}" if where else f"{problem['msg']}{more}"
