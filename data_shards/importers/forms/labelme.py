"""labelme's files, one JSON file per image; a shape's description, or else its label, is the sentence."""

from __future__ import annotations

import base64
import os
from collections.abc import Hashable
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from maris_fast.data_shards.importers.annotations import or_default
from maris_fast.data_shards.importers.checked_rows import Misshapen
from maris_fast.data_shards.importers.left_out import BadRows
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.row_lines import LineRow, lines_of
from maris_fast.data_shards.importers.source import Document, Form, Source, first_with_rows
from maris_fast.data_shards.importers.split_names import split_of_name
from maris_fast.data_shards.records import TRAIN, DatasetInfo
from maris_fast.errors import first_of
from maris_fast.images import MOST_PIXELS, png_of
from maris_fast.rle import Rle


class Shape(BaseModel):
    label: str
    points: list[tuple[float, float]]
    shape_type: Annotated[str, or_default("polygon")] = "polygon"
    group_id: int | None = None
    description: Annotated[str, or_default("")] = ""
    mask: str | None = None

    @property
    def sentences(self) -> list[str]:
        """The lines of the description, or else the label."""
        return [line for line in self.description.splitlines() if line.strip()] or [self.label]

    def part(self, height: int, width: int) -> Any:
        """A part of a segmentation: a polygon, run lengths, or points that are later reported as no mask.

        Raises:
            ValueError: a mask that cannot be read.
        """
        if self.shape_type == "mask" and self.mask is not None:
            return self._pixels(self.mask, height, width).model_dump(mode="json")
        return [number for point in self.points for number in point]

    @property
    def is_mask(self) -> bool:
        return self.shape_type in ("polygon", "mask")

    def _pixels(self, mask: str, height: int, width: int) -> Rle:
        """The whole mask from ``mask``, a PNG of the box whose corners are the shape's points."""
        if height * width > MOST_PIXELS:
            raise ValueError(f"no image is as large as {width} x {height}")
        try:
            picture = png_of(base64.b64decode(mask))
            left, top = (int(number) if isfinite(number) else -1 for number in self.points[0])
            if not (0 <= left <= width - picture.width and 0 <= top <= height - picture.height):
                raise ValueError("it does not lie in the image")
            inside = np.asarray(picture.convert("L")) != 0
        except (OSError, SyntaxError, LookupError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"the mask of the shape {self.label!r} cannot be read: {error}") from error
        whole = np.zeros((height, width), np.bool_)
        whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return Rle.encode(whole)


class LabelmeRow(LineRow):
    """A file; the path of its image, ``imagePath``, is relative to it."""

    shapes: list[Shape]
    image: str = Field(alias="imagePath")
    height: int = Field(alias="imageHeight", gt=0)
    width: int = Field(alias="imageWidth", gt=0)

    def line(self) -> dict[str, Any]:
        """One object per group of shapes, and per label of shapes without group and description."""
        objects: dict[Hashable, list[Shape]] = {}
        for place, shape in enumerate(self.shapes):
            own: Hashable = place if shape.description.strip() else shape.label
            objects.setdefault(own if shape.group_id is None else ("group", shape.group_id), []).append(shape)
        return {
            "image": self.image,
            "height": self.height,
            "width": self.width,
            "objects": [
                {
                    "sentences": list(dict.fromkeys(text for shape in shapes for text in shape.sentences)),
                    "mask": self._mask(shapes),
                    "category": shapes[0].label,
                }
                for shapes in objects.values()
            ],
        }

    def _mask(self, shapes: list[Shape]) -> Any:
        """The parts of all shapes, or only that of a rectangle or point, which is reported as no mask."""
        parts = [shape.part(self.height, self.width) for shape in shapes]
        no_masks = [part for part, shape in zip(parts, shapes, strict=True) if not shape.is_mask]
        return no_masks[0] if no_masks else parts


def read(source: Source) -> DatasetInfo:
    """Read the files; each belongs to the split that its folder is named for, else to "train"."""
    head = source.head()
    bad = BadRows(f"{source.dataset} below {source.root}")
    lines = []
    for document in _documents(source):
        file, split = os.path.relpath(document.path, source.place), document.split or TRAIN
        try:
            content = document.content
        except ValueError as error:
            wrong = Misshapen(0, {}, first_of(error), file)
            bad.add(wrong.row(source.dataset, split), wrong.fault)
            continue
        if isinstance(content, dict) and isinstance(name := content.get("imagePath"), str):
            content = {**content, "imagePath": _place(name, document.path.parent, Path(head.image_root))}
        lines += lines_of(LabelmeRow, [content], source.dataset, split, bad, of=file, whose="labelme's")
        document.forget()
    return write_lines(source, lines, head, bad)


def _place(name: str, folder: Path, image_root: Path) -> str:
    """The path below the image folder: as in the file, or else of that name in the image folder itself."""
    name = name.replace("\\", "/")
    beside = os.path.relpath(os.path.normpath(folder.resolve() / name), image_root)
    last = PurePosixPath(name).name
    return last if not (image_root / beside).exists() and (image_root / last).exists() else beside


def _documents(source: Source) -> list[Document]:
    if not source.place.is_dir():
        return list(source.documents)
    deeper = (path for path in source.place.rglob("*.json") if path.parent.parent != source.place)
    paths = [
        *sorted(source.place.glob("*.json")),
        *sorted(source.place.glob("*/*.json")),
        *sorted(path for path in deeper if path.parent != source.place),
    ]
    return [Document(path, split_of_name(path.parent.name)) for path in paths]


def _is_labelme(source: Source) -> bool:
    document = first_with_rows(_documents(source)) if source.place.is_dir() else source.first_with_rows()
    return document is not None and document.under("shapes") is not None


LABELME = Form("a folder of labelme's files, one JSON an image", _is_labelme, read)
