"""Output of an importer: one record per image group, in human-readable JSON lines.

An imported data set is a folder::

    <folder>/dataset.json          what was imported, from where, and the counts
    <folder>/<split>.jsonl         one ImageRecord per line, in the order of image_id
    <folder>/dataset.left_out.jsonl  annotation rows that are in no split, if any (importers.left_out)

Image paths in the records are relative to ``DatasetInfo.image_root``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from maris_fast.errors import InputError, first_of
from maris_fast.geometry import ImageGeometry
from maris_fast.images import Orientation
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.system.files import plain_name, read_at_most

FORMAT_VERSION = 2
HEAD, MOST_HEAD_BYTES = "dataset.json", 2**26

TRAIN = "train"
"""The split for training, not for scoring."""
VAL = "val"
"""The split that a training run is validated on."""

OWN = "own"
"""The ``split_by`` of users' own data."""

UNKNOWN_SPLIT = "?"
"""Split name of left-out rows that do not name their split."""


class Frozen(BaseModel):
    """An immutable record: fields are validated, and unknown ones rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(Frozen):
    """What the sentences of one ref refer to: one object, several together, or nothing in the image."""

    ref_id: int
    ann_ids: tuple[int, ...] = Field(description="the objects' annotations; empty where nothing is meant")
    category: str = Field(
        description="its name; several, in order, are joined by ', '; '' where there is none"
    )
    mask: Rle = Field(description="the union of the objects")
    area: int = Field(ge=0, description="pixels of the mask at the original size")
    overlap: Rle | None = Field(
        default=None,
        description="pixels inside two or more of one annotation's polygons, which some scorers drop; "
        "None: not known",
    )

    @model_validator(mode="after")
    def _none_is_empty(self) -> Target:
        if bool(self.ann_ids) != bool(self.area):
            raise ValueError(
                f"ref {self.ref_id}: its mask has {self.area} pixels and it names {len(self.ann_ids)} "
                "annotations; expected some of both, or none of either"
            )
        return self


class Expression(Frozen):
    """One sentence; ``target`` is an index into its record's ``targets``."""

    sent_id: int
    target: int = Field(ge=0)
    text: str = Field(min_length=1)
    kind: str | None = Field(default=None, description="kind of expression, where the data set names one")


class ImageRecord(Frozen):
    """One image group: an image, the objects referred to in it, and every sentence of one split."""

    image_id: int
    image: str = Field(description="path below DatasetInfo.image_root")
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    coco_id: int | None = Field(
        default=None,
        description="the image's number in COCO, whatever file it is; None: not COCO's, or unknown",
    )
    flickr_id: int | None = Field(
        default=None, description="the photograph's number at Flickr, whatever file it is; None: unknown"
    )
    orientation: Orientation = Field(
        default="stored", description="the view of the image that height, width and masks are for"
    )
    targets: tuple[Target, ...] = Field(min_length=1)
    expressions: tuple[Expression, ...] = Field(min_length=1)

    def samples(
        self,
        geometry: ImageGeometry | None = None,
        tokens: Sequence[tuple[str, ...]] | None = None,
        *,
        places: Iterable[int] | None = None,
        words_of: Iterable[int] | None = None,
    ) -> Iterator[Sample]:
        """A sample for each of the expressions at ``places``; None for all expressions.

        Args:
            geometry: None if the image has not been resized.
            tokens: of every expression; None if they have not been encoded.
            words_of: for each of ``places``, the expression whose words are read; None for its own.
        """
        geometry = geometry or ImageGeometry.unresized(self.height, self.width)
        firsts: dict[int, int] = {}
        for place, expression in enumerate(self.expressions):
            firsts.setdefault(expression.target, place)
        chosen = range(len(self.expressions)) if places is None else tuple(places)
        for place, read in zip(chosen, chosen if words_of is None else words_of, strict=True):
            expression = self.expressions[place]
            target = self.targets[expression.target]
            yield Sample(
                image_id=self.image_id,
                ref_id=target.ref_id,
                sent_id=expression.sent_id,
                text=self.expressions[read].text,
                target=target.mask,
                geometry=geometry,
                image=self.image,
                orientation=self.orientation,
                ann_ids=target.ann_ids,
                category=target.category,
                kind=expression.kind,
                first=firsts[expression.target] == place,
                overlap=target.overlap,
                tokens=() if tokens is None else tokens[read],
            )

    @model_serializer(mode="wrap")
    def _without_defaults(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit default values, so that the bytes match those of older caches."""
        written: dict[str, Any] = whole(self)
        if self.orientation == "stored":
            written.pop("orientation", None)
        if self.flickr_id is None:
            written.pop("flickr_id", None)
        return written

    @model_validator(mode="after")
    def _consistent(self) -> ImageRecord:
        for target in self.targets:
            if target.mask.size != (self.height, self.width):
                raise ValueError(
                    f"image {self.image_id}: mask of ref {target.ref_id} is {target.mask.size}, "
                    f"the image is {(self.height, self.width)}"
                )
        for expression in self.expressions:
            if expression.target >= len(self.targets):
                raise ValueError(
                    f"image {self.image_id}: sentence {expression.sent_id} names target "
                    f"{expression.target} of {len(self.targets)}"
                )
        return self


FileName = Annotated[str, AfterValidator(plain_name)]
"""A plain file name, or a part of one: the file is opened in the folder whose metadata names it."""


class SplitCounts(Frozen):
    refs: int
    sentences: int
    images: int


class LostCounts(Frozen):
    rows: int
    expressions: int = Field(description="a line that could not be read counts as one")
    images: int = Field(description="that have such a row, and of which nothing is in the split")


class LeftOut(LostCounts):
    """What an import left out of a split because it could not be used."""

    reasons: dict[str, LostCounts]


MEANING = {"void": "void (255)", "soft": "darker than half of white"}
"""Descriptions of the kinds of dropped pixels."""


class DroppedPixels(Frozen):
    """Pixels of mask files that are neither 0 nor inside the mask, and count as outside."""

    files: int
    pixels: int


def together(parts: Sequence[LeftOut]) -> LeftOut:
    """The sum of what was left out of several splits."""
    reasons = dict.fromkeys(reason for part in parts for reason in part.reasons)
    return LeftOut(
        **_sum(parts),
        reasons={
            reason: LostCounts(**_sum([part.reasons[reason] for part in parts if reason in part.reasons]))
            for reason in reasons
        },
    )


def _sum(counts: Sequence[LostCounts]) -> dict[str, int]:
    return {what: sum(getattr(one, what) for one in counts) for what in LostCounts.model_fields}


class SharedPhotographs(Frozen):
    """Photographs that two splits of a data set have in common."""

    splits: tuple[str, str]
    images: int = Field(description="of the first split, each met by its surest ground")
    by: Literal["name", "pixels", "looks"] = Field(
        description="path or numbers at COCO and Flickr; the same pixels; or a perceptual hash, a suspicion"
    )
    example: tuple[str, str] = Field(description="an image of each split")

    def __str__(self) -> str:
        first, second = self.splits
        met = {
            "name": "are in",
            "pixels": "are copies, pixel by pixel, of some in",
            "looks": "look like some in",
        }
        return (
            f"warning: {self.images:,} photographs of {first} {met[self.by]} {second} (such as "
            f"{' and '.join(dict.fromkeys(self.example))}); scores on one are no test of a model that was "
            "trained on the other"
        )


class DatasetInfo(Frozen):
    """The head of an imported data set (``dataset.json``)."""

    format_version: int = FORMAT_VERSION
    name: str = Field(description="refcoco, refcoco+, grefcoco, phrasecut, ...")
    split_by: str
    image_root: str = Field(description="absolute path that the records' image paths start from")
    source: str = Field(description="absolute path of the annotations that were read")
    synthetic: bool = False
    coco_annotations: bool = Field(
        default=False, description="ann_ids are COCO's, the same objects in every data set that says so"
    )
    splits: dict[FileName, SplitCounts]
    left_out: dict[str, LeftOut] = Field(
        default_factory=dict, description="of splits that are not complete; '?': of any of them"
    )
    shared: tuple[SharedPhotographs, ...] = Field(
        default=(), description="photographs that two splits have, as far as the import compared them"
    )
    dropped_pixels: dict[str, DroppedPixels] = Field(
        default_factory=dict,
        description="of mask files: 'void', which nobody decided on, and 'soft', below half of white",
    )

    masks_are_boxes: bool | tuple[str, ...] = Field(
        default=False,
        description="every mask is its annotation's box; of a mix, the data sets of which that is so",
    )

    @model_serializer(mode="wrap")
    def _of_what_there_is(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit empty fields, so that checksums of caches written before the fields existed still match."""
        written: dict[str, Any] = whole(self)
        for name in ("left_out", "dropped_pixels", "masks_are_boxes", "shared"):
            if not getattr(self, name):
                written.pop(name, None)
        return written

    def incomplete(self, splits: Iterable[str] | None = None) -> list[str]:
        """A warning for each of these splits (None: all) that is not complete."""
        named = self.splits if splits is None else splits
        lost = {split: self.left_out[split] for split in (*named, UNKNOWN_SPLIT) if split in self.left_out}
        return [self._warning(split, out) for split, out in lost.items() if out.expressions]

    def about_masks(self) -> list[str]:
        """A warning for each reason why masks may not be what they seem."""
        lines = [
            f"warning: {dropped.pixels:,} pixels of {dropped.files:,} mask files are {MEANING[what]} and "
            "count as outside"
            for what, dropped in self.dropped_pixels.items()
        ]
        boxes = self.masks_are_boxes
        if boxes:
            of_these = f" of {' and of '.join(boxes)}" if isinstance(boxes, tuple) else ""
            lines.append(
                f"warning: every mask{of_these} is the box of its annotation, so that boxes are learned and "
                "scored; where there are masks, export those"
            )
        return lines

    def _warning(self, split: str, lost: LeftOut) -> str:
        if split == UNKNOWN_SPLIT:
            return (
                f"warning: {lost.rows:,} rows that are left out do not say their split, so that any split "
                "may not be complete"
            )
        every = lost.expressions + self.splits[split].sentences
        share = f"{lost.expressions:,} of {every:,} expressions ({lost.expressions / every:.2%})"
        line = f"warning: {split} is not complete, {share} and {lost.images:,} whole images are left out"
        if split == TRAIN:
            return line
        return f"{line}; scores on it compare neither with published ones nor with those on all of it"


class ImportedDataset:
    """An imported data set on disk.

    Raises:
        InputError: the folder holds no imported data set, or one of another format version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        head = self.folder / HEAD
        if not head.is_file():
            raise InputError(
                f"{self.folder} holds no imported data set (no {HEAD}); run `maris-fast import` first"
            )
        try:
            self.info = DatasetInfo.model_validate_json(read_at_most(head, MOST_HEAD_BYTES))
        except ValidationError as error:
            raise InputError(
                f"{head} is not what this program writes: {first_of(error)}; import the data set again"
            ) from error
        if self.info.format_version != FORMAT_VERSION:
            raise InputError(
                f"{head} has format version {self.info.format_version}, this program reads {FORMAT_VERSION}; "
                "import the data set again"
            )

    def path(self, split: str) -> Path:
        """The path of the split's JSON lines.

        Raises:
            InputError: no such split; the message lists the existing ones.
        """
        if split not in self.info.splits:
            raise InputError(
                f"no split {split!r} in {self.folder}; it has {', '.join(sorted(self.info.splits))}"
            )
        return self.folder / f"{split}.jsonl"

    def records(self, split: str, first_byte: int = 0) -> Iterator[ImageRecord]:
        """The split's records in the order of image_id, from the line that begins at ``first_byte``.

        Raises:
            InputError: as ``path``, or for a record that was changed by hand.
        """
        return (record for record, _ in self.records_and_bytes(split, first_byte))

    def records_and_bytes(self, split: str, first_byte: int = 0) -> Iterator[tuple[ImageRecord, int]]:
        """Like ``records``, each with its size in bytes in the split's file.

        Raises:
            InputError: as ``records``.
        """
        path = self.path(split)
        with path.open("rb") as lines:
            lines.seek(first_byte)
            for line in lines:
                yield self.record_of(line, split, first_byte), len(line)
                first_byte += len(line)

    def record_of(self, line: bytes, split: str, first_byte: int) -> ImageRecord:
        """The record in a line of the split that begins at ``first_byte``.

        Raises:
            InputError: as ``records``.
        """
        try:
            return ImageRecord.model_validate_json(line)
        except ValidationError as error:
            raise InputError(
                f"{self.path(split)}, byte {first_byte:,}: no record as `maris-fast import` writes it: "
                f"{first_of(error)}"
            ) from error


def count(records: Iterable[ImageRecord]) -> SplitCounts:
    """The numbers of refs, sentences and images of a split."""
    refs = sentences = images = 0
    for record in records:
        refs += len(record.targets)
        sentences += len(record.expressions)
        images += 1
    return SplitCounts(refs=refs, sentences=sentences, images=images)
