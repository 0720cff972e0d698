"""Groups lines that name an image, a mask and sentences by image, for every form that has such lines."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
from maris_fast.data_shards.importers.spilled_objects import NumberedObject, SpilledObject, SpilledObjects
from maris_fast.data_shards.importers.split_names import chosen_splits
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target
from maris_fast.errors import InputError
from maris_fast.images import load_stored
from maris_fast.rle import Rle


def write_lines(
    source: Source, lines: Iterable[Line], head: DatasetInfo, bad: BadRows, *, mask_root: Path | None = None
) -> DatasetInfo:
    """Group the lines by image and write them.

    Images are numbered from 1 in the order of their first line, refs and sentences in the order of the lines;
    what is left out gets no number. Expressions of one image with the same mask and category mean the same
    target, whichever lines they are on. A mask of None means that nothing in the image is meant.

    Args:
        lines: iterated twice, once for the images that they name and once for the objects.
        head: the head to write, except for its counts.
        bad: collects what cannot be used; may already hold rows that are not valid lines.
        mask_root: the folder that paths of mask files are relative to; None: the source's root.

    Returns:
        The head that was written.

    Raises:
        InputError: no lines, an unknown split, or rows that cannot be used, as ``import_dataset``.
    """
    source.forget()
    options = source.options
    mask_root = mask_root or source.root
    photos = PhotoFiles(Path(head.image_root), mask_root, lines, options)
    if not photos and not bad:
        raise InputError(f"{source.place} holds no lines")
    chosen = chosen_splits(photos.splits, options.splits, source.place) if photos else []
    photos.look(chosen)
    with SpilledObjects(source.folder) as objects:
        grouping = _Grouping(mask_root, photos, objects, bad, options)
        for line, place, photo in photos.each(lines):
            grouping.add(line, place, photo)
        objects.settle()
        records = ((split, _SplitRecords(grouping, photos.splits[split])) for split in chosen)
        head = head.model_copy(update={"dropped_pixels": grouping.dropped.counts()})
        return write_dataset(source.folder, head, records, bad, options)


class _Grouping:
    """Groups lines by image; what cannot be used is added to ``bad`` and left out."""

    def __init__(
        self, root: Path, photos: PhotoFiles, objects: SpilledObjects, bad: BadRows, options: ImportOptions
    ) -> None:
        self._root, self._photos, self._objects = root, photos, objects
        self._bad, self._options = bad, options
        self.dropped = Dropped()
        self._image_ids = array("i", bytes(4 * len(photos)))
        """Image id of each photograph; 0: no object yet."""
        self._numbers = array("i")
        """The photograph's number of each image id, from 1."""

    def add(self, line: Line, place: str, photo: Photo | Fault) -> None:
        """``place``: the image's path, for the listing of left-out rows."""
        if not line.row.meant:
            of_photo = [photo] if isinstance(photo, Fault) else []
            self._bad.add(_row(line, place, 0), *of_photo, Fault("images without an object", line.where))
        for number, one in enumerate(line.row.meant, start=1):
            of_several = number if len(line.row.meant) > 1 else None
            if isinstance(photo, Fault):
                self._bad.add(_row(line, place, len(one.texts), of_several), photo)
            else:
                self._add_object(line, one, of_several, photo)

    def _add_object(self, line: Line, one: ObjectRow, number: int | None, photo: Photo) -> None:
        place = photo.file_name
        labels = [label_fault(label, line.where) for label in (one.category, one.kind or "")]
        if wrong := [fault for fault in labels if fault is not None]:
            self._bad.add(_row(line, place, len(one.texts), number), *wrong)
            return
        texts, faults = self._texts(line, one)
        for of_kind in faults.values():
            self._bad.add(_row(line, place, len(of_kind), number), *of_kind)
        if not texts:
            return
        try:
            mask = self._mask(one.mask, photo, line.where)
        except (ValueError, TypeError) as error:
            fault = Fault("objects without a usable mask", f"{line.where}: {error}")
            self._bad.add(_row(line, place, len(texts), number), fault)
            return
        if not self._image_ids[photo.number]:
            self._numbers.append(photo.number)
            self._image_ids[photo.number] = len(self._numbers)
        said = SpilledObject(mask.counts, mask.area, one.category, one.kind, texts)
        self._objects.add(self._photos.splits[line.split], self._image_ids[photo.number], said)

    def images(self, split: int) -> int:
        """The number of the split's images that have an object."""
        return self._objects.images(split)

    def records(self, split: int) -> Iterator[ImageRecord]:
        """One record per image, in the order of image_id."""
        for image_id, objects in self._objects.by_image(split):
            yield self._record(image_id, objects)

    def _record(self, image_id: int, objects: Sequence[NumberedObject]) -> ImageRecord:
        photo = self._photos.photo(self._numbers[image_id - 1])
        targets: list[Target] = []
        expressions: list[Expression] = []
        index: dict[tuple[str, str], int] = {}
        for one, ref_id, first_sent_id in objects:
            same = one.counts, one.category
            if same not in index:
                index[same] = len(targets)
                targets.append(
                    Target(
                        ref_id=ref_id,
                        ann_ids=(ref_id,) if one.area else (),
                        category=one.category,
                        mask=Rle(size=(photo.height, photo.width), counts=one.counts),
                        area=one.area,
                    )
                )
            expressions += [
                Expression(sent_id=sent_id, target=index[same], text=text, kind=one.kind)
                for sent_id, text in enumerate(one.texts, start=first_sent_id)
            ]
        return ImageRecord(
            image_id=image_id,
            image=photo.file_name,
            height=photo.height,
            width=photo.width,
            coco_id=coco_id_of(photo.file_name),
            flickr_id=flickr_id_of(photo.file_name),
            orientation=photo.orientation,
            targets=tuple(targets),
            expressions=tuple(expressions),
        )

    def _texts(self, line: Line, one: ObjectRow) -> tuple[list[str], dict[str, list[Fault]]]:
        """The usable sentences, and the faults of the others by kind."""
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
            ValueError, TypeError: the mask cannot be drawn.
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


@dataclass(frozen=True)
class _SplitRecords:
    """The records of a split, created anew on each iteration."""

    grouping: _Grouping
    split: int

    def __len__(self) -> int:
        return self.grouping.images(self.split)

    def __iter__(self) -> Iterator[ImageRecord]:
        return self.grouping.records(self.split)


def _row(line: Line, image: str, expressions: int, number: int | None = None) -> SourceRow:
    return SourceRow(
        file=line.file,
        split=line.split,
        row=line.name + (f", object {number}" if number else ""),
        image=image,
        expressions=expressions,
    )


def _png(path: Path, image: Photo) -> NDArray[Any]:
    """Values [height, width]; indices if the image has a palette."""
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
        raise ValueError(f"{path} has the channels {', '.join(picture.getbands())}; expected one")
    return np.asarray(picture)
