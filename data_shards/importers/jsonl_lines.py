"""One line of people's JSON lines, checked for its keys; ``docs/datasets.md`` has them all."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from maris_fast.data_shards.importers.annotations import SplitName


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")  # a misspelt key would otherwise be lost


class ObjectRow(Strict):
    """What is meant, and the sentences that mean it."""

    sentence: str | None = None
    sentences: list[str] | None = None
    mask: Any
    category: str = ""
    kind: str | None = None

    @model_validator(mode="after")
    def _said(self) -> ObjectRow:
        if (self.sentence is None) == (not self.sentences):
            raise ValueError("needed is `sentence`, or a list `sentences`, and not both")
        return self

    @property
    def texts(self) -> list[str]:
        return [self.sentence] if self.sentence is not None else list(self.sentences or ())


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


def parsed(line: bytes) -> ExpressionLine | ImageLine:
    """
    Raises:
        ValueError: not JSON, or a ValidationError: not the keys of either.
    """
    keys = json.loads(line)
    kind = ImageLine if isinstance(keys, dict) and "objects" in keys else ExpressionLine
    return kind.model_validate(keys)
