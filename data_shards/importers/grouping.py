"""Groups refs and COCO's instances by image, for every data set with this layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from maris_fast.data_shards.importers.annotations import (
    AnnotationRow,
    CategoryRow,
    ImageRow,
    RefRow,
)
from maris_fast.data_shards.importers.checked_rows import Misshapen, split_of
from maris_fast.data_shards.importers.coco_images import coco_id_of, flickr_id_of
from maris_fast.data_shards.importers.dataset_files import write_dataset
from maris_fast.data_shards.importers.ids import TWICE, by_id, repeated
from maris_fast.data_shards.importers.image_checks import look_at_images, size_fault
from maris_fast.data_shards.importers.instances import Instances
from maris_fast.data_shards.importers.left_out import BadRows, Fault, SourceRow
from maris_fast.data_shards.importers.paths import image_place, same_file
from maris_fast.data_shards.importers.segmentations import BOX_ALONE, is_box, overlap_mask, union_mask
from maris_fast.data_shards.importers.sentences import label_fault, sentence_of
from maris_fast.data_shards.importers.source import Source
from maris_fast.data_shards.importers.split_names import chosen_splits, file_of
from maris_fast.data_shards.records import UNKNOWN_SPLIT, DatasetInfo, Expression, ImageRecord, Target
from maris_fast.errors import InputError
from maris_fast.rle import Rle, union

NO_CATEGORY = CategoryRow(id=-1, name="")
"""Category of annotations whose ``category_id`` is null."""


class Refs(NamedTuple):
    """A data set's refs, and the malformed rows among them."""

    rows: Sequence[RefRow]
    misshapen: Sequence[Misshapen] = ()


def write_refs(
    source: Source, refs: Refs, instances: Instances[ImageRow, AnnotationRow], info: DatasetInfo
) -> DatasetInfo:
    """Group the refs by image and write them.

    Args:
        info: the head, except for its counts and whether it is synthetic.

    Returns:
        The head that was written.

    Raises:
        InputError: no refs, an unknown split, or rows that cannot be used, as ``import_dataset``.
    """
    source.forget()
    options = source.options
    if not refs.rows and not refs.misshapen:
        raise InputError(f"{info.source} holds no refs")
    splits = {ref.split for ref in refs.rows} - {UNKNOWN_SPLIT}
    chosen = chosen_splits(splits, options.splits, info.source) if splits else []
    bad = BadRows(f"{info.name} ({info.split_by}) of {info.source}")
    file = Path(info.source).name
    grouping = Grouping(instances, Path(info.image_root), file, bad)
    for one in refs.misshapen:
        split = split_of(one.keys)
        bad.add(one.row(file_of(split, file), split), one.fault)
    for one in instances.misshapen:
        split = split_of(one.keys)
        bad.add(one.row(file_of(split, instances.file), split, said=False), one.fault)
    by_split = grouping.refs_with_own_ids(refs.rows)
    groups = {split: grouping.records(by_split[split]) for split in chosen}
    grouping.records(by_split[UNKNOWN_SPLIT])  # yields no records, only faults: the refs' images are unknown
    # COCO's masks are for the pixels as stored.
    undecided = options.orientation or ("stored" if info.coco_annotations else None)
    used = grouping.used_images
    looked = look_at_images(Path(info.image_root), used, len(used), options, undecided=undecided)
    sound = (
        (
            split,
            bad.without_images(
                looked.oriented(records), looked.faults, file=file_of(split, file), split=split, what="ref"
            ),
        )
        for split, records in groups.items()
    )
    of_file = {"synthetic": instances.info.synthetic, "masks_are_boxes": grouping.masks_are_boxes}
    head = info.model_copy(update=of_file)
    return write_dataset(source.folder, head, sound, bad, options)


class Grouping:
    """Groups refs by image; what cannot be used is added to ``bad`` and left out."""

    def __init__(
        self, instances: Instances[ImageRow, AnnotationRow], image_root: Path, file: str, bad: BadRows
    ) -> None:
        self._images, self._images_at_odds = by_id(instances.images, lambda row: row.id)
        self._annotations, self._annotations_at_odds = by_id(instances.annotations, lambda row: row.id)
        self._categories, self._categories_at_odds = by_id(instances.categories, lambda row: row.id)
        self._misshapen = {(one.of, one.id()): one for one in instances.misshapen}
        self._synthetic = instances.info.synthetic
        self._root, self._file, self._bad = image_root, file, bad
        self._used: dict[int, ImageRow] = {}
        self._image_of_file: dict[Hashable, ImageRow] = {}
        self._places: dict[int, str | Fault] = {}
        self._boxes: list[bool] = []
        self._useless_sentences: dict[tuple[int, int], int] = {}

    @property
    def used_images(self) -> list[ImageRow]:
        """Images of all groups created so far, each once."""
        return list(self._used.values())

    @property
    def masks_are_boxes(self) -> bool:
        """Whether every mask of the groups created so far is just its bounding box."""
        return bool(self._boxes) and all(self._boxes)

    def refs_with_own_ids(self, refs: Sequence[RefRow]) -> dict[str, list[RefRow]]:
        """The refs by split, without those that ``repeated`` finds; sentences that it finds are recorded.

        Refs without sentences are left out, as by the loaders that read refs by sentence: no expression is
        lost, and neither their ids nor their images and annotations matter.
        """
        for ref in refs:
            if not ref.sentences:
                self._bad.add_empty(self._row(ref), Fault("refs without a sentence", f"ref {ref.ref_id}"))
        refs = [ref for ref in refs if ref.sentences]
        useless = repeated(refs, lambda ref: ref.ref_id, lambda ref: ref.content)
        for place, count in useless.items():
            fault = Fault(TWICE.format("refs"), f"ref {refs[place].ref_id} ({count} times)")
            self._bad.add(self._row(refs[place]), fault)
        good = [ref for place, ref in enumerate(refs) if place not in useless]
        sentences = [(ref, place) for ref in good for place in range(len(ref.sentences))]
        ids = repeated(
            sentences,
            lambda one: one[0].sentences[one[1]].sent_id,
            lambda one: (one[0].ref_id, one[0].sentences[one[1]]),
        )
        self._useless_sentences = {
            (sentences[at][0].ref_id, sentences[at][1]): count for at, count in ids.items()
        }
        by_split: dict[str, list[RefRow]] = defaultdict(list)
        for ref in good:
            by_split[ref.split].append(ref)
        return by_split

    def records(self, refs: Iterable[RefRow]) -> list[ImageRecord]:
        """One record per image, in the order of image_id; refs in the order of ref_id."""
        by_image: dict[int, list[RefRow]] = defaultdict(list)
        for ref in sorted(refs, key=lambda ref: (ref.image_id, ref.ref_id)):
            by_image[ref.image_id].append(ref)
        records = (self._record(image_id, group) for image_id, group in by_image.items())
        return [record for record in records if record is not None]

    def _record(self, image_id: int, refs: list[RefRow]) -> ImageRecord | None:
        found = self._image(image_id)
        if isinstance(found, Fault):
            for ref in refs:
                fault = found._replace(detail=f"ref {ref.ref_id}: {found.detail}")
                self._bad.add(self._row(ref), fault)
            return None
        image = self._used[image_id] = found
        targets: list[Target] = []
        expressions: list[Expression] = []
        for ref in refs:
            target = self._target(ref, image)
            said = self._expressions(ref, index=len(targets)) if target is not None else []
            if target is not None and said:
                targets.append(target)
                expressions += said
        if not expressions:
            return None
        return ImageRecord(
            image_id=image.id,
            image=image.file_name,
            height=image.height,
            width=image.width,
            coco_id=None if self._synthetic else coco_id_of(image.file_name, image.coco_url),
            flickr_id=None if self._synthetic else flickr_id_of(image.file_name, image.flickr_url),
            targets=tuple(targets),
            expressions=tuple(expressions),
        )

    def _image(self, image_id: int) -> ImageRow | Fault:
        """The image with its path normalized, or why it cannot be used."""
        if misshapen := self._misshapen.get(("images", image_id)):
            return misshapen.needed(f"image_id {image_id}")
        image = self._images.get(image_id)
        if image is None:
            return Fault("refs to images that instances.json lacks", f"image_id {image_id}")
        if rows := self._images_at_odds.get(image_id):
            names = " and ".join(sorted({row.file_name for row in rows}))
            return Fault(TWICE.format("images"), f"image {image_id} is {names} ({len(rows)} times)")
        place = self._place(image)
        if isinstance(place, Fault):
            return place
        if fault := size_fault(image):
            return fault
        file = same_file(self._root / place)
        first = self._image_of_file.setdefault(file, image) if file else image
        if first.id != image_id:
            return Fault(
                "images that are one file under several ids; give each file one",
                f"image {image_id} ({place}) is image {first.id} ({first.file_name})",
            )
        return image.model_copy(update={"file_name": place})

    def _place(self, image: ImageRow) -> str | Fault:
        if image.id not in self._places:
            self._places[image.id] = image_place(image.file_name, self._root, f"image {image.id}")
        return self._places[image.id]

    def _row(self, ref: RefRow) -> SourceRow:
        image = self._images.get(ref.image_id)
        place = self._place(image) if image else f"image {ref.image_id}"
        return SourceRow(
            file=file_of(ref.split, self._file),
            split=ref.split,
            row=f"ref {ref.ref_id}",
            image=place if isinstance(place, str) or image is None else image.file_name,
            expressions=len(ref.sentences),
        )

    def _target(self, ref: RefRow, image: ImageRow) -> Target | None:
        """The union of the ref's objects; None if one cannot be used, as a part would be another target."""
        if not ref.ann_ids:
            none = Rle.empty(image.height, image.width)
            return Target(ref_id=ref.ref_id, ann_ids=(), category="", mask=none, area=0, overlap=none)
        where = f"ref {ref.ref_id}, annotation {{}}, image {ref.image_id} ({image.file_name})"
        faults: list[Fault] = []
        found = [self._annotation(one, ref, where.format(one), faults) for one in ref.ann_ids]
        annotations = [annotation for annotation in found if annotation is not None]
        # gRefCOCO's baseline leaves out every crowd, so a ref with only crowds has no mask there.
        annotations = [one for one in annotations if not one.iscrowd] or annotations
        masks = [both for one in annotations if (both := _masks(one, image, where.format(one.id), faults))]
        if faults:
            self._bad.add(self._row(ref), *faults)
            return None
        self._boxes += [is_box(one.segmentation, one.bbox) for one in annotations]
        mask = union([mask for mask, _ in masks])
        categories = (one.category_id for one in annotations if one.category_id is not None)
        names = dict.fromkeys(self._categories[category].name for category in categories)
        return Target(
            ref_id=ref.ref_id,
            ann_ids=tuple(annotation.id for annotation in annotations),
            category=", ".join(names),
            mask=mask,
            area=mask.area,
            overlap=union([overlap for _, overlap in masks]),
        )

    def _annotation(self, ann_id: int, ref: RefRow, where: str, faults: list[Fault]) -> AnnotationRow | None:
        annotation = self._annotations.get(ann_id)
        category: CategoryRow | None = NO_CATEGORY
        if annotation is not None and annotation.category_id is not None:
            category = self._categories.get(annotation.category_id)
        of_category = annotation and self._misshapen.get(("categories", annotation.category_id))
        if misshapen := self._misshapen.get(("annotations", ann_id)) or of_category:
            faults.append(misshapen.needed(where))
        elif annotation is None or category is None:
            faults.append(Fault("refs to annotations or categories that instances.json lacks", where))
        elif rows := self._annotations_at_odds.get(ann_id):
            faults.append(Fault(TWICE.format("annotations"), f"{where} ({len(rows)} times)"))
        elif named := self._categories_at_odds.get(category.id):
            names = " and ".join(sorted({repr(row.name) for row in named}))
            faults.append(Fault(TWICE.format("categories"), f"{where}: its category is {names}"))
        elif annotation.image_id != ref.image_id:
            detail = f"{where}: it is of image {annotation.image_id}"
            faults.append(Fault("refs to an annotation of another image", detail))
        elif fault := label_fault(category.name, f"{where}: its category"):
            faults.append(fault)
        else:
            return annotation
        return None

    def _expressions(self, ref: RefRow, index: int) -> list[Expression]:
        row = self._row(ref)
        expressions = []
        for place, sentence in enumerate(ref.sentences):
            name = f"{row.row}, sentence {sentence.sent_id}"
            said = self._said(ref, place, f"{name}, image {ref.image_id}")
            if isinstance(said, Fault):
                self._bad.add(row.model_copy(update={"row": name, "expressions": 1}), said)
            else:
                expressions.append(
                    Expression(sent_id=sentence.sent_id, target=index, text=said, kind=sentence.kind)
                )
        return expressions

    def _said(self, ref: RefRow, place: int, where: str) -> str | Fault:
        if count := self._useless_sentences.get((ref.ref_id, place)):
            return Fault(TWICE.format("sentences"), f"{where} ({count} times)")
        sentence = ref.sentences[place]
        return (sentence.kind and label_fault(sentence.kind, where)) or sentence_of(sentence.sent, where)


def _masks(
    annotation: AnnotationRow, image: ImageRow, where: str, faults: list[Fault]
) -> tuple[Rle, Rle] | None:
    """The pixels that its polygons cover, and those that they cover more than once."""
    drawn = (annotation.segmentation, image.height, image.width)
    try:
        mask = union_mask(*drawn)
    except ValueError as error:
        if annotation.bbox and not annotation.segmentation:
            faults.append(Fault(BOX_ALONE, where))
        else:
            faults.append(Fault("annotations without a usable mask", f"{where}: {error}"))
        return None
    return mask, overlap_mask(*drawn)
