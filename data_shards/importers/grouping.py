"""Refs and COCO's instances to image groups, for every data set that is laid out so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from maris_fast.data_shards.importers.annotations import AnnotationRow, ImageRow, InstancesFile, RefRow
from maris_fast.data_shards.importers.coco_images import coco_id_of
from maris_fast.data_shards.importers.images import look_at_images
from maris_fast.data_shards.importers.left_out import BadRows, Fault, Row
from maris_fast.data_shards.importers.masks import empty_mask, overlap_mask, union_mask, union_of
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.splits import chosen_splits, file_of
from maris_fast.data_shards.importers.writing import write_dataset
from maris_fast.data_shards.records import UNKNOWN_SPLIT, DatasetInfo, Expression, ImageRecord, Rle, Target
from maris_fast.errors import InputError

BOX_ALONE = (
    "annotations that have a box and no mask; masks are what is trained on: export them with `segmentation`, "
    "or make them from the boxes first, with SAM for example"
)
"""Kind of fault."""


def write_refs(
    folder: Path,
    refs: Sequence[RefRow],
    instances: InstancesFile,
    info: DatasetInfo,
    options: ImportOptions,
) -> DatasetInfo:
    """Group the refs by image and write them to ``folder``.

    Args:
        info: the head but for its counts and whether it is synthetic.

    Returns:
        The head that was written.

    Raises:
        InputError: no refs, an unknown split, or rows that cannot be used, as ``import_refcoco``.
    """
    if not refs:
        raise InputError(f"{info.source} holds no refs")
    by_split: dict[str, list[RefRow]] = defaultdict(list)
    for ref in refs:
        by_split[ref.split].append(ref)
    chosen = chosen_splits(by_split.keys() - {UNKNOWN_SPLIT}, options.splits, info.source)

    bad = BadRows(f"{info.name} ({info.split_by}) of {info.source}")
    file = Path(info.source).name
    grouping = Grouping(instances, file, bad)
    groups = {split: grouping.records(by_split[split]) for split in chosen}
    grouping.records(by_split[UNKNOWN_SPLIT])  # none: these are refs to images that nobody knows
    # COCO's masks are for the pixels as they are stored.
    undecided = options.orientation or ("stored" if info.coco_annotations else None)
    looked = look_at_images(Path(info.image_root), grouping.used_images, options, undecided=undecided)
    sound = (
        (
            split,
            bad.without_images(
                looked.oriented(records), looked.faults, file=file_of(split, file), split=split, what="ref"
            ),
        )
        for split, records in groups.items()
    )
    head = info.model_copy(update={"synthetic": instances.info.synthetic})
    return write_dataset(folder, head, sound, bad, options)


class Grouping:
    """Refs to image groups; what cannot be used is added to ``bad`` and left out."""

    def __init__(self, instances: InstancesFile, file: str, bad: BadRows) -> None:
        self._images = {image.id: image for image in instances.images}
        self._annotations = {annotation.id: annotation for annotation in instances.annotations}
        self._categories = {category.id: category.name for category in instances.categories}
        self._synthetic = instances.info.synthetic
        self._file, self._bad = file, bad
        self._used: dict[int, ImageRow] = {}

    @property
    def used_images(self) -> list[ImageRow]:
        """Images of all groups made so far, each once."""
        return list(self._used.values())

    def records(self, refs: Iterable[RefRow]) -> list[ImageRecord]:
        """One record an image, in the order of image_id; refs in the order of ref_id."""
        by_image: dict[int, list[RefRow]] = defaultdict(list)
        for ref in sorted(refs, key=lambda ref: (ref.image_id, ref.ref_id)):
            by_image[ref.image_id].append(ref)
        records = (self._record(image_id, group) for image_id, group in by_image.items())
        return [record for record in records if record is not None]

    def _record(self, image_id: int, refs: list[RefRow]) -> ImageRecord | None:
        image = self._images.get(image_id)
        if image is None:
            for ref in refs:
                fault = Fault(
                    "refs to images that instances.json lacks", f"ref {ref.ref_id}: image_id {image_id}"
                )
                self._bad.add(self._row(ref, None), fault)
            return None
        self._used[image_id] = image
        targets: list[Target] = []
        expressions: list[Expression] = []
        for ref in refs:
            target = self._target(ref, image)
            said = self._expressions(ref, image, index=len(targets)) if target is not None else []
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
            coco_id=None if self._synthetic else coco_id_of(image.file_name),
            targets=tuple(targets),
            expressions=tuple(expressions),
        )

    def _row(self, ref: RefRow, image: ImageRow | None) -> Row:
        return Row(
            file=file_of(ref.split, self._file),
            split=ref.split,
            row=f"ref {ref.ref_id}",
            image=image.file_name if image else f"image {ref.image_id}",
            expressions=len(ref.sentences),
        )

    def _target(self, ref: RefRow, image: ImageRow) -> Target | None:
        """Of all the ref's objects; None if one of them cannot be used, as a part would be another target."""
        if not ref.ann_ids:
            none = empty_mask(image.height, image.width)
            return Target(ref_id=ref.ref_id, ann_ids=(), category="", mask=none, area=0, overlap=none)
        where = f"ref {ref.ref_id}, annotation {{}}, image {ref.image_id} ({image.file_name})"
        faults: list[Fault] = []
        found = [self._annotation(one, ref, where.format(one), faults) for one in ref.ann_ids]
        annotations = [annotation for annotation in found if annotation is not None]
        # As gRefCOCO's baseline: a crowd beside other objects is left out of their union.
        annotations = [one for one in annotations if not one.iscrowd] or annotations
        masks = [both for one in annotations if (both := _masks(one, image, where.format(one.id), faults))]
        if faults:
            self._bad.add(self._row(ref, image), *faults)
            return None
        mask, area = union_of([mask for mask, _ in masks])
        overlap, _ = union_of([overlap for _, overlap in masks])
        names = dict.fromkeys(self._categories[annotation.category_id] for annotation in annotations)
        return Target(
            ref_id=ref.ref_id,
            ann_ids=tuple(annotation.id for annotation in annotations),
            category=", ".join(names),
            mask=mask,
            area=area,
            overlap=overlap,
        )

    def _annotation(self, ann_id: int, ref: RefRow, where: str, faults: list[Fault]) -> AnnotationRow | None:
        annotation = self._annotations.get(ann_id)
        if annotation is None or annotation.category_id not in self._categories:
            faults.append(Fault("refs to annotations or categories that instances.json lacks", where))
            return None
        if annotation.image_id != ref.image_id:
            detail = f"{where}: it is of image {annotation.image_id}"
            faults.append(Fault("refs to an annotation of another image", detail))
            return None
        return annotation

    def _expressions(self, ref: RefRow, image: ImageRow, index: int) -> list[Expression]:
        row = self._row(ref, image)
        if not ref.sentences:
            self._bad.add(row, Fault("refs without a sentence", row.row))
        expressions = []
        for sentence in ref.sentences:
            text = sentence.sent.strip()
            if text:
                expressions.append(
                    Expression(sent_id=sentence.sent_id, target=index, text=text, kind=sentence.kind)
                )
            else:
                name = f"{row.row}, sentence {sentence.sent_id}"
                self._bad.add(
                    row.model_copy(update={"row": name, "expressions": 1}),
                    Fault(
                        "empty expressions; correct or remove them in the annotation file",
                        f"{name}, image {ref.image_id}",
                    ),
                )
        return expressions


def _masks(
    annotation: AnnotationRow, image: ImageRow, where: str, faults: list[Fault]
) -> tuple[Rle, Rle] | None:
    """What its polygons cover, and what they cover twice."""
    drawn = (annotation.segmentation, image.height, image.width)
    try:
        mask, _ = union_mask(*drawn)
    except ValueError as error:
        if annotation.bbox and not annotation.segmentation:
            faults.append(Fault(BOX_ALONE, where))
        else:
            faults.append(Fault("annotations without a usable mask", f"{where}: {error}"))
        return None
    return mask, overlap_mask(*drawn)
