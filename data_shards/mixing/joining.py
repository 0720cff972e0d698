"""Records of several data sets as one: what is said about an image together, and ids apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.mixing.mixed_sets import Identity, Part
from maris_fast.data_shards.records import Expression, ImageRecord, Target

IMAGE_STRIDE = 10**10
"""Images that are not COCO's own files have their id plus this times the number of their data set."""

ID_STRIDE = 10**13
"""The same for refs, sentences and annotations; more than any of COCO's annotation ids."""


@dataclass
class _Image:
    """An image, and all that is said about it in one split of the mix."""

    image_id: int
    first: ImageRecord
    path: str
    targets: list[Target] = field(default_factory=list)
    expressions: list[Expression] = field(default_factory=list)

    def record(self) -> ImageRecord:
        return self.first.model_copy(
            update={
                "image_id": self.image_id,
                "image": self.path,
                "targets": tuple(self.targets),
                "expressions": tuple(self.expressions),
            }
        )


class Joining:
    """Records of several data sets to records of one; what cannot be is added to ``problems``."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self._root, self._problems = root, problems
        self._image_ids: dict[Identity, int] = {}

    def joined(self, records: Iterable[tuple[Part, ImageRecord]]) -> list[ImageRecord]:
        """One record an image, in the order of image_id; what each data set says in the order it comes."""
        images: dict[Identity, _Image] = {}
        for part, record in records:
            key = part.file_key(record)
            if key not in images:
                path = part.path(record).relative_to(self._root).as_posix()
                images[key] = _Image(self._image_id(key, part, record), record, path)
            image = images[key]
            sizes = [(one.height, one.width) for one in (image.first, record)]
            if sizes[0] != sizes[1]:
                self._problems.add(
                    "images of which the data sets have different sizes (height x width)",
                    f"{record.image}: {sizes[0][0]} x {sizes[0][1]}, and {sizes[1][0]} x {sizes[1][1]} in "
                    f"{part.dataset.folder}",
                )
                continue
            if image.first.orientation != record.orientation:
                self._problems.add(
                    "images that one data set takes as stored and another as EXIF turns them; import one of "
                    "them again with the other `orientation`",
                    f"{record.image}: {image.first.orientation}, and {record.orientation} in "
                    f"{part.dataset.folder}",
                )
                continue
            self._add(image, part, record)
        return [image.record() for image in sorted(images.values(), key=lambda image: image.image_id)]

    def _image_id(self, key: Identity, part: Part, record: ImageRecord) -> int:
        """COCO's number of COCO's files; of another, from the first data set that has it."""
        if key not in self._image_ids:
            kind, number = key
            own = part.number * IMAGE_STRIDE + self._within(record.image_id, IMAGE_STRIDE, "image", part)
            self._image_ids[key] = number if kind == "coco" and isinstance(number, int) else own
        return self._image_ids[key]

    def _add(self, image: _Image, part: Part, record: ImageRecord) -> None:
        before = len(image.targets)
        for target in record.targets:
            ann_ids = target.ann_ids
            if not part.info.coco_annotations:
                ann_ids = tuple(self._id(one, "annotation", part) for one in ann_ids)
            changes = {"ref_id": self._id(target.ref_id, "ref", part), "ann_ids": ann_ids}
            image.targets.append(target.model_copy(update=changes))
        for one in record.expressions:
            changes = {"sent_id": self._id(one.sent_id, "sentence", part), "target": before + one.target}
            image.expressions.append(one.model_copy(update=changes))

    def _id(self, own: int, what: str, part: Part) -> int:
        return part.number * ID_STRIDE + self._within(own, ID_STRIDE, what, part)

    def _within(self, own: int, stride: int, what: str, part: Part) -> int:
        if not 0 <= own < stride:
            self._problems.add(
                f"ids below 0, or of {stride:,} and more; mix data sets as imported, not mixed ones",
                f"{part.dataset.folder}: {what} {own}",
            )
        return own
