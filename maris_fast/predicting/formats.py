"""Output formats of predictions; ``maris-fast import`` reads each of them."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maris_fast.pictures.overlays import save_png
from maris_fast.predicting.record import COCO, LABELME, MASKS, PredictedMask, Record, Settings
from maris_fast.system.files import replace_text

CATEGORY = "object"
"""Category of every mask, as a sentence names no class."""


class Format(Protocol):
    def mask_of(self, image: str, number: int) -> str | None:
        """Path of an image's mask below the folder, by its number from 1; None: masks have no files."""

    def write(self, known: Sequence[PredictedMask], new: Sequence[PredictedMask]) -> None:
        """Write an image's predictions: those already recorded, and new ones, which are recorded later."""

    def finish(self, record: Record) -> None:
        """Called at the end, and when the command is stopped."""


def format_of(out: Path, settings: Settings) -> Format:
    if settings.format == "coco":
        return CocoFile(out)
    return Labelme(out, settings) if settings.format == "labelme" else MaskFiles(out)


class MaskFiles:
    """``masks/<image>/<number>.png``: one folder per image, so that no two images share a name."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def mask_of(self, image: str, number: int) -> str | None:
        return f"{MASKS}/{image}/{number}.png"

    def write(self, known: Sequence[PredictedMask], new: Sequence[PredictedMask]) -> None:
        for line in new:
            path = self._out / str(line.mask)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(Image.fromarray(line.prediction.decode()), path)

    def finish(self, record: Record) -> None:
        pass


class CocoFile:
    """COCO instances with ``sentences`` and ``score`` in annotations; no empty masks, as COCO has none."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def mask_of(self, image: str, number: int) -> str | None:
        return None

    def write(self, known: Sequence[PredictedMask], new: Sequence[PredictedMask]) -> None:
        pass

    def finish(self, record: Record) -> None:
        if record.done:
            replace_text(self._out / COCO, _coco(record))


def _coco(record: Record) -> Iterator[str]:
    """The file in parts, as run lengths of many images may not fit into memory."""
    sizes: dict[str, tuple[int, int]] = {}
    for line in record.lines():
        sizes.setdefault(line.image, line.prediction.size)
    ids = {image: number for number, image in enumerate(sizes, start=1)}
    yield '{"images": ['
    yield from _joined(
        {"id": ids[image], "file_name": image, "height": height, "width": width}
        for image, (height, width) in sizes.items()
    )
    yield '],\n"annotations": ['
    yield from _joined(
        {
            "id": number,
            "image_id": ids[line.image],
            "category_id": 1,
            "segmentation": line.prediction.model_dump(mode="json"),
            "area": line.prediction.area,
            "bbox": line.prediction.box,
            "iscrowd": 0,
            "score": line.score,
            "sentences": [line.sentence],
        }
        for number, line in enumerate(record.lines(), start=1)
        if line.prediction.area
    )
    yield f'],\n"categories": {json.dumps([{"id": 1, "name": CATEGORY}])}}}\n'


def _joined(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    for place, row in enumerate(rows):
        yield f"{',' if place else ''}\n{json.dumps(row)}"


class Labelme:
    """``labelme/<image>.json``: a shape of type ``mask`` for each sentence whose mask is not empty."""

    def __init__(self, out: Path, settings: Settings) -> None:
        self._folder = (out / LABELME).resolve()
        self._images = Path(settings.images)
        self._full_names = settings.full_names

    def mask_of(self, image: str, number: int) -> str | None:
        return None

    def write(self, known: Sequence[PredictedMask], new: Sequence[PredictedMask]) -> None:
        lines = [*known, *new]
        path = self._folder / label_file(lines[0].image, full=self._full_names)
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = lines[0].prediction.size
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_shape(line) for line in lines if line.prediction.area],
            "imagePath": os.path.relpath(self._images / lines[0].image, path.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        replace_text(path, [json.dumps(content, indent=1), "\n"])

    def finish(self, record: Record) -> None:
        pass


def label_file(image: str, *, full: bool) -> str:
    return f"{image}.json" if full else str(PurePosixPath(image).with_suffix(".json"))


def _shape(line: PredictedMask) -> dict[str, Any]:
    left, top, width, height = (int(number) for number in line.prediction.box)
    right, bottom = left + width - 1, top + height - 1
    inside = line.prediction.decode()[top : bottom + 1, left : right + 1]
    return {
        "label": CATEGORY,
        "description": line.sentence,
        "points": [[left, top], [right, bottom]],
        "group_id": None,
        "shape_type": "mask",
        "flags": {},
        "mask": _png(inside),
    }


def _png(pixels: NDArray[np.bool_]) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
