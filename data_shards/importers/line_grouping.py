"""Lines that name an image, a mask and sentences to image groups, for every form that has such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maris_fast.data_shards.importers.coco_images import coco_id_of, flickr_id_of
from maris_fast.data_shards.importers.dataset_files import write_dataset
from maris_fast.data_shards.importers.left_out import BadRows, Fault, SourceRow
from maris_fast.data_shards.importers.lines import Line, ObjectRow, mask_file_of
from maris_fast.data_shards.importers.mask_values import Dropped, inside
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.paths import place_of
from maris_fast.data_shards.importers.photos import Photo, PhotoFiles
from maris_fast.data_shards.importers.segmentations import union_mask
from maris_fast.data_shards.importers.sentences import label_fault, sentence_of
from maris_fast.data_shards.importers.source import Source
from maris_fast.data_shards.importers.split_names import chosen_splits
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target
from maris_fast.errors import InputError
from maris_fast.images import load_stored
from maris_fast.rle import Rle


@dataclass
class _Group:
    """What a split says about an image."""

    photo: Photo
    targets: list[Target] = field(default_factory=list)
    expressions: list[Expression] = field(default_factory=list)
    place: dict[tuple[str, str], int] = field(default_factory=dict)
    """Index into ``targets`` by mask and category."""


def write_lines(
    source: Source, lines: Sequence[Line], head: DatasetInfo, bad: BadRows, *, mask_root: Path | None = None
) -> DatasetInfo:
    """Group the lines by image and write them.

    Images are numbered from 1 in the order of their first line, refs and sentences in the order of the lines;
    what is left out has no number. Expressions of one image with the same mask and category mean the same
    target, on whichever lines they stand. A mask that is None means nothing in the image.

    Args:
        head: of what is written, but for its counts.
        bad: what is none of the lines.
        mask_root: masks that are files are relative to it; None: to the source's root.

    Returns:
        The head that was written.

    Raises:
        InputError: no lines, an unknown split, or rows that cannot be used, as ``import_dataset``.
    """
    source.forget()
    options = source.options
    if not lines and not bad:
        raise InputError(f"{source.place} holds no lines")
    splits = {line.split for line in lines}
    chosen = chosen_splits(splits, options.splits, source.place) if splits else []
    mask_root = mask_root or source.root
    photos = PhotoFiles(Path(head.image_root), mask_root, lines, chosen, options)
    grouping = _Grouping(mask_root, photos, bad, options)
    for line in lines:
        grouping.add(line)
    records = ((split, grouping.records(split)) for split in chosen)
    head = head.model_copy(update={"dropped_pixels": grouping.dropped.counts()})
    return write_dataset(source.folder, head, records, bad, options)


class _Grouping:
    """Lines to image groups; what cannot be used is added to ``bad`` and left out."""

    def __init__(self, root: Path, photos: PhotoFiles, bad: BadRows, options: ImportOptions) -> None:
        self._root, self._photos, self._bad, self._options = root, photos, bad, options
        self.dropped = Dropped()
        self._numbers: dict[str, int] = {}
        self._groups: dict[str, dict[int, _Group]] = {}
        self._refs = self._sentences = 0

    def records(self, split: str) -> list[ImageRecord]:
        """One an image, in the order of image_id."""
        return [
            ImageRecord(
                image_id=number,
                image=group.photo.file_name,
                height=group.photo.height,
                width=group.photo.width,
                coco_id=coco_id_of(group.photo.file_name),
                flickr_id=flickr_id_of(group.photo.file_name),
                orientation=group.photo.orientation,
                targets=tuple(group.targets),
                expressions=tuple(group.expressions),
            )
            for number, group in sorted(self._groups.get(split, {}).items())
        ]

    def add(self, line: Line) -> None:
        photo = self._photos.of(line)
        if not line.row.meant:
            of_photo = [photo] if isinstance(photo, Fault) else []
            self._bad.add(self._row(line, 0), *of_photo, Fault("images without an object", line.where))
        for number, one in enumerate(line.row.meant, start=1):
            of_several = number if len(line.row.meant) > 1 else None
            if isinstance(photo, Fault):
                self._bad.add(self._row(line, len(one.texts), of_several), photo)
            else:
                self._add_object(line, one, of_several, photo)

    def _add_object(self, line: Line, one: ObjectRow, number: int | None, photo: Photo) -> None:
        labels = [label_fault(label, line.where) for label in (one.category, one.kind or "")]
        if wrong := [fault for fault in labels if fault is not None]:
            self._bad.add(self._row(line, len(one.texts), number), *wrong)
            return
        texts, faults = self._texts(line, one)
        for of_kind in faults.values():
            self._bad.add(self._row(line, len(of_kind), number), *of_kind)
        if not texts:
            return
        try:
            mask = self._mask(one.mask, photo, line.where)
        except (ValueError, TypeError) as error:
            fault = Fault("objects without a usable mask", f"{line.where}: {error}")
            self._bad.add(self._row(line, len(texts), number), fault)
            return
        image_id = self._numbers.setdefault(photo.file_name, 1 + len(self._numbers))
        group = self._groups.setdefault(line.split, {}).setdefault(image_id, _Group(photo))
        same = (mask.counts, one.category)
        if same not in group.place:
            self._refs += 1
            group.place[same] = len(group.targets)
            ann_ids = (self._refs,) if mask.area else ()
            group.targets.append(
                Target(ref_id=self._refs, ann_ids=ann_ids, category=one.category, mask=mask, area=mask.area)
            )
        for text in texts:
            self._sentences += 1
            group.expressions.append(
                Expression(sent_id=self._sentences, target=group.place[same], text=text, kind=one.kind)
            )

    def _texts(self, line: Line, one: ObjectRow) -> tuple[list[str], dict[str, list[Fault]]]:
        """Sentences that can be used, and what is wrong with the others by kind."""
        texts: list[str] = []
        faults: dict[str, list[Fault]] = {}
        for text in one.texts:
            said = sentence_of(text, line.where)
            if isinstance(said, Fault):
                faults.setdefault(said.kind, []).append(said)
            else:
                texts.append(said)
        return texts, faults

    def _mask(self, said: Any, image: Photo, where: str) -> Rle:
        """
        Raises:
            ValueError, TypeError: it is nothing that can be drawn.
        """
        if said is None:
            return Rle.empty(image.height, image.width)
        file = mask_file_of(said)
        if file is None:
            return union_mask(said, image.height, image.width)
        place = place_of(file.file, self._root, where)
        if isinstance(place, Fault):
            raise ValueError(f"{file.file!r} is one of the {place.reason}")
        path = self._root / place
        pixels = inside(_png(path, image), path, self._options.mask_values, file.values, self.dropped)
        mask = Rle.encode(pixels)
        if not mask.area:
            raise ValueError(f"{place} has no pixel; a sentence that means nothing has the mask null")
        return mask

    def _row(self, line: Line, expressions: int, number: int | None = None) -> SourceRow:
        return SourceRow(
            file=line.file,
            split=line.split,
            row=line.name + (f", object {number}" if number else ""),
            image=self._photos.place(line),
            expressions=expressions,
        )


def _png(path: Path, image: Photo) -> NDArray[Any]:
    """Values [height, width]; of a palette, its indices."""
    try:
        picture = load_stored(path)
    except InputError as error:
        raise ValueError(str(error)) from error
    if picture.format != "PNG":
        raise ValueError(f"{path} is {picture.format}; a mask is saved as PNG, which keeps its pixels")
    if picture.size != (image.width, image.height):
        raise ValueError(
            f"{path} is {picture.width} x {picture.height}, its image {image.width} x {image.height}"
        )
    if len(picture.getbands()) != 1:
        raise ValueError(f"{path} has the channels {', '.join(picture.getbands())}; needed is one")
    return np.asarray(picture)
