"""Refs and COCO's instances to image groups, for every data set that is laid out so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from maris_fast.data_shards.importers.annotations import AnnotationRow, ImageRow, InstancesFile, RefRow
from maris_fast.data_shards.importers.coco_images import coco_id_of
from maris_fast.data_shards.importers.images import check_images as check_image_files
from maris_fast.data_shards.importers.masks import empty_mask, overlap_mask, union_mask, union_of
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.importers.splits import chosen_splits
from maris_fast.data_shards.importers.writing import write_head, write_split
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Rle, Target
from maris_fast.errors import InputError


def write_refs(
    folder: Path,
    refs: Sequence[RefRow],
    instances: InstancesFile,
    info: DatasetInfo,
    *,
    splits: Sequence[str] | None,
    check_images: bool,
    progress: Callable[[int, int], None] | None,
) -> DatasetInfo:
    """Group the refs by image and write them to ``folder``.

    Args:
        info: the head but for its splits and whether it is synthetic.
        splits, check_images, progress: as ``import_refcoco``'s.

    Returns:
        The head that was written.

    Raises:
        InputError: no refs, an unknown split, or something that cannot be used: all of it, with the ids.
    """
    if not refs:
        raise InputError(f"{info.source} holds no refs")
    by_split: dict[str, list[RefRow]] = defaultdict(list)
    for ref in refs:
        by_split[ref.split].append(ref)
    chosen = chosen_splits(by_split, splits, info.source)

    problems = Problems(f"{info.name} ({info.split_by}) of {info.source}")
    grouping = Grouping(instances, problems)
    records = {split: grouping.records(by_split[split]) for split in chosen}
    image_root = Path(info.image_root)
    check_image_files(image_root, grouping.used_images, problems, decode=check_images, progress=progress)
    problems.raise_if_any()

    counts = {split: write_split(folder, split, groups) for split, groups in records.items()}
    whole = info.model_copy(update={"splits": counts, "synthetic": instances.info.synthetic})
    write_head(folder, whole)
    return whole


class Grouping:
    """Refs to image groups; what cannot be used is added to ``problems`` and left out."""

    def __init__(self, instances: InstancesFile, problems: Problems) -> None:
        self._images = {image.id: image for image in instances.images}
        self._annotations = {annotation.id: annotation for annotation in instances.annotations}
        self._categories = {category.id: category.name for category in instances.categories}
        self._synthetic = instances.info.synthetic
        self._problems = problems
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
                self._problems.add(
                    "refs to images that instances.json lacks", f"ref {ref.ref_id}: image_id {image_id}"
                )
            return None
        self._used[image_id] = image
        targets: list[Target] = []
        expressions: list[Expression] = []
        for ref in refs:
            target = self._target(ref, image)
            if target is not None:
                expressions += self._expressions(ref, index=len(targets))
                targets.append(target)
        if not expressions:  # the reasons are among the problems
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

    def _target(self, ref: RefRow, image: ImageRow) -> Target | None:
        where = f"ref {ref.ref_id}, {{}}image {ref.image_id} ({image.file_name})"
        if not ref.ann_ids:
            none = empty_mask(image.height, image.width)
            return Target(ref_id=ref.ref_id, ann_ids=(), category="", mask=none, area=0, overlap=none)
        found = [self._annotation(one, ref, where.format(f"annotation {one}, ")) for one in ref.ann_ids]
        annotations = [annotation for annotation in found if annotation is not None]
        # As gRefCOCO's baseline: a crowd beside other objects is left out of their union.
        annotations = [one for one in annotations if not one.iscrowd] or annotations
        drawn = [
            self._masks(annotation, image, where.format(f"annotation {annotation.id}, "))
            for annotation in annotations
        ]
        masks = [both for both in drawn if both is not None]
        if not masks:  # the reasons are among the problems
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

    def _annotation(self, ann_id: int, ref: RefRow, where: str) -> AnnotationRow | None:
        annotation = self._annotations.get(ann_id)
        if annotation is None or annotation.category_id not in self._categories:
            self._problems.add("refs to annotations or categories that instances.json lacks", where)
            return None
        if annotation.image_id != ref.image_id:
            self._problems.add(
                "refs to an annotation of another image", f"{where}: it is of image {annotation.image_id}"
            )
            return None
        return annotation

    def _masks(self, annotation: AnnotationRow, image: ImageRow, where: str) -> tuple[Rle, Rle] | None:
        """What its polygons cover, and what they cover twice."""
        drawn = (annotation.segmentation, image.height, image.width)
        try:
            mask, _ = union_mask(*drawn)
        except ValueError as error:
            self._problems.add("annotations without a usable mask", f"{where}: {error}")
            return None
        return mask, overlap_mask(*drawn)

    def _expressions(self, ref: RefRow, index: int) -> list[Expression]:
        if not ref.sentences:
            self._problems.add("refs without a sentence", f"ref {ref.ref_id}")
        expressions = []
        for sentence in ref.sentences:
            text = sentence.sent.strip()
            if text:
                expressions.append(
                    Expression(sent_id=sentence.sent_id, target=index, text=text, kind=sentence.kind)
                )
            else:
                self._problems.add(
                    "empty expressions; correct or remove them in the annotation file",
                    f"ref {ref.ref_id}, sentence {sentence.sent_id}, image {ref.image_id}",
                )
        return expressions
