"""Rows of the annotation files of the RefCOCO family and of gRefCOCO."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

SplitName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
"""It is used as a file name."""

NO_TARGET = -1
"""The ``ann_id`` of a ref that refers to nothing in its image."""


def or_default(default: Any) -> BeforeValidator:
    """A validator that treats null as an absent field."""
    return BeforeValidator(lambda value: default if value is None else value)


text_or_none = BeforeValidator(lambda value: value if isinstance(value, str) else None)
"""For a key of ours that another tool's file may use for something else."""


class SentenceRow(BaseModel):
    sent_id: int
    sent: Annotated[str, or_default("")]
    kind: Annotated[str | None, text_or_none] = None


class RefRow(BaseModel):
    """What sentences refer to: an object, several, or none (``ann_ids`` is then empty).

    The files' ``file_name`` is ignored: it names images that do not exist.
    """

    model_config = ConfigDict(populate_by_name=True)

    ref_id: int
    source: Any = None
    """Ref-ZOM's "zero" means none, whatever ``ann_id`` says."""
    no_target: Any = None
    """gRefCOCO's flag."""
    ann_ids: tuple[int, ...] = Field(alias="ann_id")
    image_id: int
    split: SplitName
    sentences: list[SentenceRow]

    @field_validator("ann_ids", mode="before")
    @classmethod
    def _objects(cls, ann_id: Any, row: ValidationInfo) -> Any:
        none = row.data.get("source") == "zero" or (ann_id is None and row.data.get("no_target") is True)
        if none or ann_id in (NO_TARGET, [NO_TARGET]):
            return ()
        ann_ids = ann_id if isinstance(ann_id, list | tuple) else [ann_id]
        if not ann_ids or NO_TARGET in ann_ids:
            raise ValueError(f"{ann_ids} is neither objects nor [{NO_TARGET}], which means none")
        return tuple(ann_ids)

    @field_validator("ann_ids")
    @classmethod
    def _each_once(cls, ann_ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(ann_ids))

    @property
    def content(self) -> object:
        """What must be equal for two refs with the same id to be the same."""
        return self


class ImageRow(BaseModel):
    id: int
    file_name: str
    height: int
    width: int
    coco_url: Any = None  # passed to coco_images, which ignores what is not text
    flickr_url: Any = None


class AnnotationRow(BaseModel):
    id: int
    image_id: int
    category_id: int | None = None
    iscrowd: Annotated[bool, or_default(False)] = False
    segmentation: Any = None  # checked only for annotations that are referred to, see segmentations
    bbox: Any = None


class CategoryRow(BaseModel):
    id: int
    name: str


class InfoRow(BaseModel):
    synthetic: bool = False
