"""Rows that name an image, a mask and sentences: lines of users' own data, and rows converted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, model_validator

from maris_fast.data_shards.importers.annotations import SplitName, or_default


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt key would otherwise be ignored


class ObjectRow(Strict):
    """What is referred to, and the sentences that refer to it."""

    sentence: str | None = None
    sentences: list[str] | None = None
    mask: Any
    category: Annotated[str, or_default("")] = ""
    kind: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_box(cls, keys: Any) -> Any:
        boxes = {"bbox", "box"} & keys.keys() if isinstance(keys, dict) and "mask" not in keys else None
        if boxes:
            raise ValueError(f"it has a box (`{min(boxes)}`) and no mask; masks are what is trained on")
        return keys

    @model_validator(mode="after")
    def _said(self) -> ObjectRow:
        if (self.sentence is None) == (not self.sentences):
            raise ValueError("expected `sentence`, or a list `sentences`, and not both")
        mask_file_of(self.mask)
        return self

    @property
    def texts(self) -> list[str]:
        return [self.sentence] if self.sentence is not None else list(self.sentences or ())


class MaskFile(Strict):
    """A mask PNG; only some of its values may belong to the object."""

    file: str
    value: int | list[int] | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """Pixel values of the object; empty: not given, see ``mask_values.inside``."""
        if self.value is None:
            return ()
        return (self.value,) if isinstance(self.value, int) else tuple(self.value)


def mask_file_of(mask: Any) -> MaskFile | None:
    """The file that a line's ``mask`` names, or None if it names none.

    Raises:
        ValueError: keys that are not as documented.
    """
    if isinstance(mask, str):
        return MaskFile(file=mask)
    return MaskFile.model_validate(mask) if isinstance(mask, dict) and "file" in mask else None


class ImagePart(Strict):
    image: str
    split: SplitName | None = None
    width: int | None = None
    height: int | None = None


class ExpressionLine(ObjectRow, ImagePart):
    """One object of an image."""

    @property
    def meant(self) -> list[ObjectRow]:
        return [self]


class ImageLine(ImagePart):
    """An image with several objects."""

    objects: list[ObjectRow]

    @property
    def meant(self) -> list[ObjectRow]:
        return self.objects


def parsed_line(keys: Any) -> ExpressionLine | ImageLine:
    """
    Raises:
        ValueError: keys that are not as documented.
    """
    kind = ImageLine if isinstance(keys, dict) and "objects" in keys else ExpressionLine
    return kind.model_validate(keys)


@dataclass(frozen=True)
class Line:
    """A line, or a row of another form, with its location.

    Attributes:
        name: its name in the listing of left-out rows.
        where: file and position, for faults.
    """

    row: ExpressionLine | ImageLine
    file: str
    split: str
    name: str
    where: str
