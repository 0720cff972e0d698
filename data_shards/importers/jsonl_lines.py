"""The lines of people's JSON lines, each checked for its keys; ``docs/datasets.md`` has them all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, model_validator

from maris_fast.data_shards.importers.annotations import SplitName, or_default
from maris_fast.data_shards.importers.checked_rows import split_of
from maris_fast.data_shards.importers.left_out import BadRows, Fault, SourceRow
from maris_fast.data_shards.importers.own import SPLIT
from maris_fast.data_shards.importers.text_encoding import read_utf8
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.errors import first_of


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt key would otherwise be lost


class ObjectRow(Strict):
    """What is meant, and the sentences that mean it."""

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
            raise ValueError("needed is `sentence`, or a list `sentences`, and not both")
        mask_file_of(self.mask)
        return self

    @property
    def texts(self) -> list[str]:
        return [self.sentence] if self.sentence is not None else list(self.sentences or ())


class MaskFile(Strict):
    """A mask PNG, of whose values some may be the object's and others another's."""

    file: str
    value: int | list[int] | None = None

    @property
    def values(self) -> tuple[int, ...]:
        """Empty: as the file's values tell."""
        if self.value is None:
            return ()
        return (self.value,) if isinstance(self.value, int) else tuple(self.value)


def mask_file_of(mask: Any) -> MaskFile | None:
    """The file that a line's ``mask`` names; None: it names none.

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


@dataclass(frozen=True)
class Line:
    """A line with its place."""

    row: ExpressionLine | ImageLine
    file: str
    number: int
    split: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}"


def read_lines(path: Path, split: str | None, bad: BadRows) -> list[Line]:
    """The lines of a file; those that are not as documented are added to ``bad``.

    Args:
        split: what the file's name says.

    Raises:
        InputError: no such file.
    """
    lines = []
    for number, text in enumerate(read_utf8(path).splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path.name}:{number}"
        keys: Any = None
        try:
            keys = parse_json(text)
            row = _parsed(keys)
        except ValueError as error:
            fault = Fault("lines that are not as docs/datasets.md says", f"{where}: {first_of(error)}")
            bad.add(_unreadable(path.name, number, split or split_of(keys, missing=SPLIT)), fault)
            continue
        if split is not None and row.split not in (None, split):
            detail = f"{where}: {row.split!r} in a file of {split!r}"
            bad.add(
                _unreadable(path.name, number, split), Fault("lines of another split than their file", detail)
            )
            continue
        lines.append(Line(row, path.name, number, split or row.split or SPLIT))
    return lines


def _parsed(keys: Any) -> ExpressionLine | ImageLine:
    kind = ImageLine if isinstance(keys, dict) and "objects" in keys else ExpressionLine
    return kind.model_validate(keys)


def _unreadable(file: str, number: int, split: str) -> SourceRow:
    return SourceRow(file=file, split=split, row=f"line {number}", image=None, expressions=1)
