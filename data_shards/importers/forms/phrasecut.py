"""PhraseCut: phrases on Visual Genome's images, each with the union of all its instances."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import BaseModel, Field

from maris_fast.data_shards.importers.annotations import ImageRow, or_default, text_or_none
from maris_fast.data_shards.importers.checked_rows import Misshapen, each, split_of
from maris_fast.data_shards.importers.dataset_files import write_dataset
from maris_fast.data_shards.importers.ids import TWICE, by_id, repeated
from maris_fast.data_shards.importers.image_checks import look_at_images, size_fault
from maris_fast.data_shards.importers.left_out import BadRows, Fault, SourceRow
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.segmentations import BOX_ALONE
from maris_fast.data_shards.importers.sentences import label_fault, sentence_of
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import chosen_splits
from maris_fast.data_shards.importers.text_encoding import read_json
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target
from maris_fast.errors import InputError
from maris_fast.rle import Rle

IMAGE_DATA = ("image_data_split.json", "image_data_split3000.json")
"""Both names are in use."""
_FOLDERS = ("", "VG_100K/", "VG_100K_2/")


class PhraseStructure(BaseModel):
    name: Annotated[str, or_default("")] = ""
    type: Annotated[str | None, text_or_none] = None


class TaskRow(BaseModel):
    """One phrase. ``Polygons`` are checked when they are drawn, so that all bad ones are reported."""

    task_id: Any = None
    image_id: int
    ann_ids: list[int]
    polygons: Any = Field(alias="Polygons")
    instance_boxes: Any = None
    phrase: Annotated[str, or_default("")]
    phrase_structure: PhraseStructure | None = None


class ImageDataRow(BaseModel):
    image_id: int
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    split: str
    coco_id: int | None = None


def read(source: Source) -> DatasetInfo:
    """Read ``refer_<split>.json`` with ``image_data_split.json``.

    A phrase is a ref with one sentence; both have the phrase's place in its file as their id, so that
    predictions can be handed to PhraseCut's own evaluation by ``task_id``. ``kind`` is what distinguishes the
    object from others in the image: its name, an attribute, a relation, or nothing ("verbose"). Progress
    counts images checked and phrases drawn.
    """
    place, options = source.place, source.options
    chosen = chosen_splits(_splits(place), options.splits, place)
    listing = next((place / name for name in IMAGE_DATA if (place / name).is_file()), place / IMAGE_DATA[0])
    image_data, misshapen = _read_image_data(listing)
    head = source.head("phrasecut", "official", images=(f"{source.dataset}/images",))
    bad = BadRows(f"phrasecut in {place}")
    for one in misshapen:
        bad.add(one.row(listing.name, split_of(one.keys), said=False), one.fault)
    broken = {one.id("image_id"): one for one in misshapen}
    splits = (  # one at a time: a file takes gigabytes while it is read
        (split, _Split(split, place, Path(head.image_root), image_data, broken, bad).records(options))
        for split in chosen
    )
    return write_dataset(source.folder, head, splits, bad, options)


def _splits(place: Path) -> list[str]:
    there = (path.stem.removeprefix("refer_") for path in place.glob("refer_*.json"))
    return [split for split in there if not split.startswith("input_")]  # without ground truth


class _Split:
    """The phrases of one file; what cannot be used is added to ``bad`` and left out."""

    def __init__(
        self,
        name: str,
        place: Path,
        image_root: Path,
        listed: Sequence[ImageDataRow],
        broken: Mapping[int | None, Misshapen],
        bad: BadRows,
    ) -> None:
        self._name, self._file, self._root, self._bad = name, f"refer_{name}.json", image_root, bad
        self._names: dict[int, str] = {}
        self._tasks, misshapen = _read_tasks(place / self._file)
        for one in misshapen:
            bad.add(one.row(self._file, name), one.fault)
        images, at_odds = by_id(listed, lambda row: row.image_id)
        named = [number for number, task in self._tasks.items() if task.task_id is not None]
        useless = repeated(
            named, lambda number: str(self._tasks[number].task_id), lambda number: self._tasks[number]
        )
        counts = {named[at]: count for at, count in useless.items()}
        self._images: dict[int, ImageDataRow] = {}
        self._by_image: dict[int, list[int]] = defaultdict(list)
        for number, task in self._tasks.items():
            image = images.get(task.image_id)
            if number in counts:
                detail = f"{name} {number}: task_id {task.task_id} ({counts[number]} times)"
                bad.add(self._row(number), Fault(TWICE.format("phrases"), detail))
            elif task.image_id in broken:
                bad.add(self._row(number), broken[task.image_id].needed(f"{name} {number}"))
            elif image is None:
                bad.add(
                    self._row(number),
                    Fault(
                        f"phrases on images that {IMAGE_DATA[0]} lacks",
                        f"{name} {number}: image {task.image_id}",
                    ),
                )
            elif rows := at_odds.get(task.image_id):
                detail = f"{name} {number}: image {task.image_id} ({len(rows)} times)"
                bad.add(self._row(number), Fault(TWICE.format("images"), detail))
            elif fault := size_fault(self._image_row(image)):
                bad.add(self._row(number), fault)
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

    def records(self, options: ImportOptions) -> list[ImageRecord]:
        """One record per image, in the order of image_id."""
        rows = [self._image_row(one) for one in self._images.values()]
        done, both = len(rows), len(rows) + len(self._tasks)
        progress = options.progress or (lambda done, both: None)
        looked = look_at_images(
            self._root,
            rows,
            len(rows),
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

    def _file_name(self, image_id: int) -> str:
        """The path in the image folder itself, or in one of the two folders of Visual Genome's images."""
        if image_id not in self._names:
            places = (f"{folder}{image_id}.jpg" for folder in _FOLDERS)
            there = (place for place in places if (self._root / place).exists())
            self._names[image_id] = next(there, f"{image_id}.jpg")
        return self._names[image_id]

    def _image_row(self, image: ImageDataRow) -> ImageRow:
        name = self._file_name(image.image_id)
        return ImageRow(id=image.image_id, file_name=name, height=image.height, width=image.width)

    def _row(self, number: int) -> SourceRow:
        return SourceRow(
            file=self._file,
            split=self._name,
            row=f"phrase {number}",
            image=self._file_name(self._tasks[number].image_id),
            expressions=1,
        )

    def _record(self, image: ImageDataRow, numbers: Sequence[int]) -> ImageRecord | None:
        targets: list[Target] = []
        expressions: list[Expression] = []
        for number in numbers:
            task = self._tasks[number]
            where = f"{self._name} {number}, image {image.image_id}: {task.phrase[:60]!r}"
            said = task.phrase_structure or PhraseStructure()
            target, text = _target(number, task, image, where), sentence_of(task.phrase, where)
            labels = [label_fault(label, where) for label in (said.name, said.type or "")]
            if faults := [one for one in (target, text, *labels) if isinstance(one, Fault)]:
                self._bad.add(self._row(number), *faults)
                continue
            assert isinstance(target, Target)
            assert isinstance(text, str)
            expressions.append(Expression(sent_id=number, target=len(targets), text=text, kind=said.type))
            targets.append(target)
        if not expressions:
            return None
        return ImageRecord(
            image_id=image.image_id,
            image=self._file_name(image.image_id),
            height=image.height,
            width=image.width,
            coco_id=image.coco_id or None,
            targets=tuple(targets),
            expressions=tuple(expressions),
        )


def _target(number: int, task: TaskRow, image: ImageDataRow, where: str) -> Target | Fault:
    if not task.ann_ids:
        return Fault("phrases without ann_ids", where)
    try:
        mask = Rle.encode(draw_instances(task.polygons, image.height, image.width))
    except (TypeError, ValueError, OverflowError) as error:
        return Fault("phrases whose polygons cannot be drawn", f"{where}: {error}")
    if not mask.area and not task.polygons and task.instance_boxes:
        return Fault(BOX_ALONE, where)
    if not mask.area:
        return Fault("phrases whose polygons have no pixel in the image", where)
    return Target(
        ref_id=number,
        ann_ids=tuple(dict.fromkeys(task.ann_ids)),
        category=task.phrase_structure.name if task.phrase_structure else "",
        mask=mask,
        area=mask.area,
    )


def draw_instances(instances: Any, height: int, width: int) -> NDArray[np.uint8]:
    """The union of all instances as PhraseCut's evaluation draws it, [height, width] of 0 and 1.

    Corners are truncated towards 0, the outline belongs to the mask, and a polygon of fewer than two
    corners is skipped (ChenyunWu/PhraseCutDataset, utils/data_transfer.py, ``polygons_to_mask``).

    Args:
        instances: lists of polygons, which are lists of corners [x, y].

    Raises:
        TypeError, ValueError, OverflowError: ``instances`` has another structure.
    """
    picture = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(picture)
    for polygons in instances:
        for polygon in polygons:
            if len(polygon) < 2:
                continue
            draw.polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
    return np.asarray(picture)


def _read_tasks(path: Path) -> tuple[dict[int, TaskRow], list[Misshapen]]:
    """The phrases by index, and the malformed rows."""
    content = read_json(path)
    try:
        tasks, misshapen = each(TaskRow, parse_json(content))
    except ValueError as error:
        raise InputError(
            f"{path} is not a list of phrases as PhraseCut's authors publish them: {error}"
        ) from error
    if not tasks and not misshapen:
        raise InputError(f"{path} holds no phrases")
    return tasks, misshapen


def _read_image_data(path: Path) -> tuple[list[ImageDataRow], list[Misshapen]]:
    content = read_json(path)
    try:
        rows, misshapen = each(ImageDataRow, parse_json(content), of="images")
    except ValueError as error:
        raise InputError(
            f"{path} is not the list of images as PhraseCut's authors publish it: {error}"
        ) from error
    return list(rows.values()), misshapen


PHRASECUT = Form(
    "refer_<split>.json with image_data_split.json, as PhraseCut",
    lambda source: bool(_splits(source.place)),
    read,
)
