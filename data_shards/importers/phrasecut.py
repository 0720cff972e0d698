"""PhraseCut: phrases on Visual Genome's images, each with the union of all its instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from maris_fast.data_shards.importers.annotations import ImageRow, first_of, read_bytes
from maris_fast.data_shards.importers.images import find_image_root, look_at_images
from maris_fast.data_shards.importers.left_out import BadRows, Fault, Row
from maris_fast.data_shards.importers.masks import mask_of_pixels
from maris_fast.data_shards.importers.options import DEFAULT, ImportOptions
from maris_fast.data_shards.importers.report import ImportReport
from maris_fast.data_shards.importers.splits import chosen_splits
from maris_fast.data_shards.importers.writing import write_dataset
from maris_fast.data_shards.new_folder import new_folder
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target
from maris_fast.errors import InputError

IMAGE_DATA = ("image_data_split.json", "image_data_split3000.json")
"""Both names are about."""


class PhraseStructure(BaseModel):
    name: str = ""
    type: str | None = None


class TaskRow(BaseModel):
    """One phrase. ``Polygons`` are checked when they are drawn, so that all bad ones are told."""

    image_id: int
    ann_ids: list[int]
    polygons: Any = Field(alias="Polygons")
    phrase: str
    phrase_structure: PhraseStructure | None = None


class ImageDataRow(BaseModel):
    image_id: int
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    split: str
    coco_id: int | None = None


def import_phrasecut(
    root: Path,
    dataset: str,
    out: Path,
    options: ImportOptions = DEFAULT,
) -> ImportReport:
    """Import ``root/<dataset>/refer_<split>.json`` with ``image_data_split.json`` to the folder ``out``.

    A phrase is a ref with one sentence; both have the phrase's place in its file as their id, so that
    predictions can be handed to PhraseCut's own evaluation by ``task_id``. ``kind`` is what tells the thing
    from others in the image: its name, an attribute, a relation, or nothing ("verbose").

    Args:
        dataset: name of the folder; images are looked for in its ``images``.
        root, out: as ``import_refcoco``'s.
        options: ``progress`` is called with images checked and phrases drawn, and how many of both there are.

    Raises:
        InputError: as ``import_refcoco``.
    """
    root = Path(root).absolute()
    place = root / dataset
    with new_folder(out) as folder:
        there = [path.stem.removeprefix("refer_") for path in place.glob("refer_*.json")]
        there = [split for split in there if not split.startswith("input_")]  # without the truth
        if not there:
            raise InputError(f"no refer_<split>.json in {place}; PhraseCut's authors publish one a split")
        chosen = chosen_splits(there, options.splits, place)
        image_data = _read_image_data(place)
        head = DatasetInfo(
            name="phrasecut",
            split_by="official",
            image_root=str(find_image_root(root, options.images, (f"{dataset}/images",))),
            source=str(place),
            splits={},
        )
        bad = BadRows(f"phrasecut in {place}")
        splits = (  # one after the other: a file takes gigabytes while it is read
            (split, _Split(split, place, image_data, bad).records(Path(head.image_root), options))
            for split in chosen
        )
        return ImportReport(out, write_dataset(folder, head, splits, bad, options))


class _Split:
    """The phrases of one file; what cannot be used is added to ``bad`` and left out."""

    def __init__(self, name: str, place: Path, images: Mapping[int, ImageDataRow], bad: BadRows) -> None:
        self._name, self._file, self._bad = name, f"refer_{name}.json", bad
        self._tasks = _read_tasks(place / self._file)
        self._images: dict[int, ImageDataRow] = {}
        self._by_image: dict[int, list[int]] = defaultdict(list)
        for number, task in enumerate(self._tasks):
            image = images.get(task.image_id)
            if image is None:
                bad.add(
                    self._row(number),
                    Fault(
                        f"phrases on images that {IMAGE_DATA[0]} lacks",
                        f"{name} {number}: image {task.image_id}",
                    ),
                )
            elif image.split != name:
                bad.add(
                    self._row(number),
                    Fault(
                        f"phrases of another split than their image has in {IMAGE_DATA[0]}",
                        f"{name} {number}: image {task.image_id} is of {image.split}",
                    ),
                )
            else:
                self._images[task.image_id] = image
                self._by_image[task.image_id].append(number)

    def records(self, root: Path, options: ImportOptions) -> list[ImageRecord]:
        """One an image, in the order of image_id; ``root`` holds the images."""
        rows = [
            ImageRow(id=one.image_id, file_name=_file_name(one.image_id), height=one.height, width=one.width)
            for one in self._images.values()
        ]
        done, both = len(rows), len(rows) + len(self._tasks)
        progress = options.progress or (lambda done, both: None)
        looked = look_at_images(
            root,
            rows,
            replace(options, progress=lambda done, _: progress(done, both)),
            undecided=options.orientation or "stored",  # as Visual Genome's boxes are
        )
        records = []
        for image_id in sorted(self._by_image):
            record = self._record(self._images[image_id], self._by_image[image_id])
            if record is not None:
                records.append(record)
            done += len(self._by_image[image_id])
            progress(done, both)
        return self._bad.without_images(
            looked.oriented(records), looked.faults, file=self._file, split=self._name, what="phrase"
        )

    def _row(self, number: int) -> Row:
        return Row(
            file=self._file,
            split=self._name,
            row=f"phrase {number}",
            image=_file_name(self._tasks[number].image_id),
            expressions=1,
        )

    def _record(self, image: ImageDataRow, numbers: Sequence[int]) -> ImageRecord | None:
        targets: list[Target] = []
        expressions: list[Expression] = []
        for number in numbers:
            task = self._tasks[number]
            where = f"{self._name} {number}, image {image.image_id}: {task.phrase!r}"
            target = _target(number, task, image, where)
            text = task.phrase.strip()
            faults = [target] if isinstance(target, Fault) else []
            if not text:
                faults.append(Fault("empty phrases; remove them from the file", where))
            if isinstance(target, Fault) or faults:
                self._bad.add(self._row(number), *faults)
                continue
            kind = task.phrase_structure.type if task.phrase_structure else None
            expressions.append(Expression(sent_id=number, target=len(targets), text=text, kind=kind))
            targets.append(target)
        if not expressions:
            return None
        return ImageRecord(
            image_id=image.image_id,
            image=_file_name(image.image_id),
            height=image.height,
            width=image.width,
            coco_id=image.coco_id or None,
            targets=tuple(targets),
            expressions=tuple(expressions),
        )


def _file_name(image_id: int) -> str:
    return f"{image_id}.jpg"


def _target(number: int, task: TaskRow, image: ImageDataRow, where: str) -> Target | Fault:
    if not task.ann_ids:
        return Fault("phrases without ann_ids", where)
    try:
        mask, area = mask_of_pixels(draw_instances(task.polygons, image.height, image.width))
    except (TypeError, ValueError, OverflowError) as error:
        return Fault("phrases whose polygons cannot be drawn", f"{where}: {error}")
    if not area:
        return Fault("phrases whose polygons have no pixel in the image", where)
    return Target(
        ref_id=number,
        ann_ids=tuple(dict.fromkeys(task.ann_ids)),
        category=task.phrase_structure.name if task.phrase_structure else "",
        mask=mask,
        area=area,
    )


def draw_instances(instances: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The union of all instances as PhraseCut's evaluation draws it, [height, width] of 0 and 1.

    Corners lose their fractions towards 0, the outline belongs to the mask, and a polygon of fewer than two
    corners is skipped (ChenyunWu/PhraseCutDataset, utils/data_transfer.py, ``polygons_to_mask``).

    Args:
        instances: lists of polygons, which are lists of corners [x, y].

    Raises:
        TypeError, ValueError, OverflowError: something else.
    """
    picture = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(picture)
    for polygons in instances:
        for polygon in polygons:
            if len(polygon) < 2:
                continue
            draw.polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
    return np.asarray(picture)


def _read_tasks(path: Path) -> list[TaskRow]:
    try:
        tasks = TypeAdapter(list[TaskRow]).validate_json(read_bytes(path))
    except ValidationError as error:
        raise InputError(
            f"{path} is not a list of phrases as PhraseCut's authors publish them: {first_of(error)}"
        ) from error
    if not tasks:
        raise InputError(f"{path} holds no phrases")
    return tasks


def _read_image_data(place: Path) -> dict[int, ImageDataRow]:
    path = next((place / name for name in IMAGE_DATA if (place / name).is_file()), place / IMAGE_DATA[0])
    try:
        rows = TypeAdapter(list[ImageDataRow]).validate_json(read_bytes(path))
    except ValidationError as error:
        raise InputError(
            f"{path} is not the list of images as PhraseCut's authors publish it: {first_of(error)}"
        ) from error
    return {row.image_id: row for row in rows}
