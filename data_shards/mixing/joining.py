"""Records of several data sets as one: everything about an image is merged, ids are kept distinct."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.mixing.mixed_sets import Identity, Part, Placed
from maris_fast.data_shards.records import Expression, ImageRecord, Target

IMAGE_STRIDE = 10**10
"""Images that are not COCO's own files have their id plus this times the number of their data set."""

ID_STRIDE = 10**13
"""The same for refs, sentences and annotations; larger than any of COCO's annotation ids."""


@dataclass
class Joined:
    """A split of the mix: where to find the source records of each image."""

    parts: list[Part] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    sources: dict[tuple[int, str], int] = field(default_factory=dict)
    """Indices into ``parts`` and ``splits``, by a part's number and its split."""
    images: array[int] = field(default_factory=lambda: array("i"))
    """Numbers of the mix's images, one entry per record; so are the following."""
    image_ids: array[int] = field(default_factory=lambda: array("q"))
    source: array[int] = field(default_factory=lambda: array("h"))
    first_bytes: array[int] = field(default_factory=lambda: array("q"))

    def __len__(self) -> int:
        """The number of records."""
        return len(self.image_ids)

    def add(self, image: int, image_id: int, placed: Placed) -> None:
        source = self.sources.setdefault((placed.part.number, placed.split), len(self.sources))
        if source == len(self.parts):
            self.parts.append(placed.part)
            self.splits.append(placed.split)
        self.images.append(image)
        self.image_ids.append(image_id)
        self.source.append(source)
        self.first_bytes.append(placed.first_byte)

    def by_image(self) -> Iterator[tuple[int, list[tuple[Part, ImageRecord]]]]:
        """Images in the order of image_id, each with its records in the order in which they were added."""
        with ExitStack() as stack:
            files = [
                stack.enter_context(part.dataset.path(split).open("rb"))
                for part, split in zip(self.parts, self.splits, strict=True)
            ]
            order = np.lexsort((np.array(self.images), np.array(self.image_ids)))
            for _, places in groupby(map(int, order), self.images.__getitem__):
                of_image = list(places)
                yield self.image_ids[of_image[0]], [self._read(place, files) for place in of_image]

    def _read(self, place: int, files: Sequence[BinaryIO]) -> tuple[Part, ImageRecord]:
        source = self.source[place]
        file = files[source]
        file.seek(self.first_bytes[place])
        part = self.parts[source]
        return part, part.dataset.record_of(file.readline(), self.splits[source], self.first_bytes[place])


class Joining:
    """Joins records of several data sets into one; those that cannot be are added to ``problems``."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self._root, self._problems = root, problems
        self._images: dict[Identity, int] = {}
        self._image_ids = array("q")
        self._views: dict[tuple[int, int, str], tuple[int, int, str]] = {}

    def join(self, records: Iterable[Placed]) -> Joined:
        """Collect the records of all data sets by image, with distinct image ids."""
        joined = Joined()
        views: dict[int, tuple[int, int, str]] = {}
        for placed in records:
            part, record = placed.part, placed.record
            image = self._image(part, record)
            view = record.height, record.width, record.orientation
            first = views.setdefault(image, self._views.setdefault(view, view))
            if first[:2] != view[:2]:
                self._problems.add(
                    "images of which the data sets have different sizes (height x width)",
                    f"{record.image}: {first[0]} x {first[1]}, and {view[0]} x {view[1]} in "
                    f"{part.dataset.folder}",
                )
                continue
            if first[2] != view[2]:
                self._problems.add(
                    "images that one data set takes as stored and another as EXIF turns them; import one of "
                    "them again with the other `orientation`",
                    f"{record.image}: {first[2]}, and {view[2]} in {part.dataset.folder}",
                )
                continue
            self._own(record, part)  # only to report its problems
            joined.add(image, self._image_ids[image], placed)
        return joined

    def records(self, joined: Joined) -> Iterator[ImageRecord]:
        """One record per image, in the order of image_id; its content is in the order of the data sets."""
        for image_id, of_it in joined.by_image():
            targets: list[Target] = []
            expressions: list[Expression] = []
            for part, record in of_it:
                own, said = self._own(record, part)
                expressions += [one.model_copy(update={"target": len(targets) + one.target}) for one in said]
                targets += own
            part, first = of_it[0]
            yield first.model_copy(
                update={
                    "image_id": image_id,
                    "image": part.path(first).relative_to(self._root).as_posix(),
                    "targets": tuple(targets),
                    "expressions": tuple(expressions),
                }
            )

    def _image(self, part: Part, record: ImageRecord) -> int:
        """The number of a record's image; its id is COCO's, or derived from the first data set with it."""
        key = part.file_key(record)
        image = self._images.setdefault(key, len(self._images))
        if image == len(self._image_ids):
            own = part.number * IMAGE_STRIDE + self._within(record.image_id, IMAGE_STRIDE, "image", part)
            self._image_ids.append(key[1] if isinstance(key, tuple) else own)
        return image

    def _own(self, record: ImageRecord, part: Part) -> tuple[list[Target], list[Expression]]:
        """A record's targets and expressions with ids that no other data set has; COCO's ``ann_ids`` stay."""
        targets = []
        for target in record.targets:
            ann_ids = target.ann_ids
            if not part.info.coco_annotations:
                ann_ids = tuple(self._id(one, "annotation", part) for one in ann_ids)
            changes = {"ref_id": self._id(target.ref_id, "ref", part), "ann_ids": ann_ids}
            targets.append(target.model_copy(update=changes))
        return targets, [
            one.model_copy(update={"sent_id": self._id(one.sent_id, "sentence", part)})
            for one in record.expressions
        ]

    def _id(self, own: int, what: str, part: Part) -> int:
        return part.number * ID_STRIDE + self._within(own, ID_STRIDE, what, part)

    def _within(self, own: int, stride: int, what: str, part: Part) -> int:
        if not 0 <= own < stride:
            self._problems.add(
                f"ids below 0, or of {stride:,} and more; mix data sets as imported, not mixed ones",
                f"{part.dataset.folder}: {what} {own}",
            )
            return 0
        return own
