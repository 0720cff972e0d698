"""Reads COCO's ``instances.json``; malformed rows are kept apart and do not affect the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator

from maris_fast.data_shards.importers.annotations import (
    AnnotationRow,
    CategoryRow,
    ImageRow,
    InfoRow,
    or_default,
)
from maris_fast.data_shards.importers.checked_rows import Misshapen, each
from maris_fast.data_shards.importers.source import Document
from maris_fast.errors import InputError, first_of


def _ours(info: Any) -> Any:
    """Keep ``info`` only if it is ours: COCO's field is free text in which other files may have anything."""
    return info if isinstance(info, dict) and isinstance(info.get("synthetic"), bool) else {}


class _Lists(BaseModel):
    info: Annotated[InfoRow, BeforeValidator(_ours)] = InfoRow()
    images: Any
    annotations: Any
    categories: Annotated[Any, or_default([])]


ImageT = TypeVar("ImageT", bound=ImageRow)
AnnotationT = TypeVar("AnnotationT", bound=AnnotationRow)


@dataclass(frozen=True)
class Instances(Generic[ImageT, AnnotationT]):
    """The valid rows of ``file``, by list, and the malformed ones, each with the name of its list."""

    info: InfoRow
    images: Sequence[ImageT]
    annotations: Sequence[AnnotationT]
    categories: Sequence[CategoryRow]
    misshapen: Sequence[Misshapen]
    file: str


def read_instances(
    document: Document,
    image: type[ImageT],
    annotation: type[AnnotationT],
    of_use: Callable[[Any], bool] = lambda keys: True,
    what: str = "COCO's instances.json",
) -> Instances[ImageT, AnnotationT]:
    """
    Args:
        image, annotation: models of the rows.
        of_use: whether an annotation with these keys is needed.
        what: what the file should be, for the message.

    Raises:
        InputError: no such file, not JSON, or not COCO's structure.
    """
    try:
        said = _Lists.model_validate(document.content)
        images, of_images = each(image, said.images, of="images")
        annotations, of_annotations = each(annotation, said.annotations, of_use, of="annotations")
        categories, of_categories = each(CategoryRow, said.categories, of="categories")
    except ValueError as error:
        raise InputError(f"{document.path} is not {what}: {first_of(error)}") from error
    document.forget()
    return Instances(
        info=said.info,
        images=list(images.values()),
        annotations=list(annotations.values()),
        categories=list(categories.values()),
        misshapen=[*of_images, *of_annotations, *of_categories],
        file=document.path.name,
    )
