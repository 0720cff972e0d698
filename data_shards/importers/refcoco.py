"""RefCOCO, RefCOCO+ (unc), G-Ref (umd, google), and whatever else is laid out like them."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from maris_fast.data_shards.importers.annotations import (
    AnnotationRow,
    ImageRow,
    InstancesFile,
    RefRow,
    read_instances,
    read_refs,
)
from maris_fast.data_shards.importers.images import check_images as check_image_files
from maris_fast.data_shards.importers.images import find_image_root
from maris_fast.data_shards.importers.masks import union_mask
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.importers.report import ImportReport
from maris_fast.data_shards.new_folder import new_folder
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target, count
from maris_fast.errors import InputError

SPLIT_ORDER = ("train", "val", "test", "testA", "testB")


def import_refcoco(
    root: Path,
    dataset: str,
    split_by: str,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    check_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import ``root/<dataset>/refs(<split_by>).p`` with its ``instances.json`` to the folder ``out``.

    Args:
        root: holds the data sets' folders and ``images/mscoco/images/train2014`` or ``images/train2014``.
        dataset: name of the folder, such as ``refcoco``, ``refcoco+``, ``refcocog``.
        split_by: ``unc``, ``umd``, ``google``, ...
        out: a new or an empty folder; what is written there is described in ``records``.
        splits: the splits to import; None or empty: all there are.
        check_images: decode every image, which finds truncated files; sizes are checked in any case.
        progress: called with images checked and images in all.

    Raises:
        InputError: ``out`` is not empty, a file is missing or damaged, or an annotation cannot be used. All
            problems are reported together with the ids; nothing is left behind.
    """
    root = Path(root).absolute()
    out = Path(out).absolute()
    with new_folder(out) as folder:
        source = root / dataset / f"refs({split_by}).p"
        _check_dataset(root, dataset, split_by)
        refs = _by_split(read_refs(source), source, splits)
        instances = read_instances(root / dataset / "instances.json")
        image_root = find_image_root(root)

        problems = Problems(f"{dataset} ({split_by}) below {root}")
        grouping = _Grouping(instances, problems)
        records = {split: grouping.records(rows) for split, rows in refs.items()}
        check_image_files(image_root, grouping.used_images, problems, decode=check_images, progress=progress)
        problems.raise_if_any()

        info = DatasetInfo(
            name=dataset,
            split_by=split_by,
            image_root=str(image_root),
            source=str(source),
            synthetic=instances.info.synthetic,
            splits={split: count(groups) for split, groups in records.items()},
        )
        for split, groups in records.items():
            with (folder / f"{split}.jsonl").open("w") as lines:
                lines.writelines(f"{record.model_dump_json()}\n" for record in groups)
        (folder / "dataset.json").write_text(info.model_dump_json(indent=1))
    return ImportReport(out, info)


def _check_dataset(root: Path, dataset: str, split_by: str) -> None:
    folder = root / dataset
    if not folder.is_dir():
        there = sorted(path.parent.name for path in root.glob("*/refs(*).p"))
        raise InputError(
            f"no folder {folder}; data sets below {root}: {', '.join(dict.fromkeys(there)) or 'none'}"
        )
    if not (folder / f"refs({split_by}).p").is_file():
        there = sorted(path.name[len("refs(") : -len(").p")] for path in folder.glob("refs(*).p"))
        raise InputError(
            f"no file {folder / f'refs({split_by}).p'}; split_by there is: {', '.join(there) or 'none'}"
        )


def _by_split(refs: list[RefRow], source: Path, wanted: Sequence[str] | None) -> dict[str, list[RefRow]]:
    """Refs by split, in the splits' usual order.

    Raises:
        InputError: no refs at all, or a split that the file does not have.
    """
    by_split: dict[str, list[RefRow]] = defaultdict(list)
    for ref in refs:
        by_split[ref.split].append(ref)
    if not by_split:
        raise InputError(f"{source} holds no refs")
    order = {split: rank for rank, split in enumerate(SPLIT_ORDER)}
    there = sorted(by_split, key=lambda split: (order.get(split, len(order)), split))
    for split in wanted or ():
        if split not in by_split:
            close = difflib.get_close_matches(split, there, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"no split {split!r} in {source}; it has {', '.join(there)}{hint}")
    return {split: by_split[split] for split in there if not wanted or split in wanted}


class _Grouping:
    """Refs to image groups; what cannot be used is added to ``problems`` and left out."""

    def __init__(self, instances: InstancesFile, problems: Problems) -> None:
        self._images = {image.id: image for image in instances.images}
        self._annotations = {annotation.id: annotation for annotation in instances.annotations}
        self._categories = {category.id: category.name for category in instances.categories}
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
            targets=tuple(targets),
            expressions=tuple(expressions),
        )

    def _target(self, ref: RefRow, image: ImageRow) -> Target | None:
        where = f"ref {ref.ref_id}, annotation {ref.ann_id}, image {ref.image_id} ({image.file_name})"
        annotation = self._annotations.get(ref.ann_id)
        if annotation is None or annotation.category_id not in self._categories:
            self._problems.add("refs to annotations or categories that instances.json lacks", where)
            return None
        if annotation.image_id != ref.image_id:
            self._problems.add(
                "refs to an annotation of another image", f"{where}: it is of image {annotation.image_id}"
            )
            return None
        return self._masked(ref, annotation, image, where)

    def _masked(self, ref: RefRow, annotation: AnnotationRow, image: ImageRow, where: str) -> Target | None:
        try:
            mask, area = union_mask(annotation.segmentation, image.height, image.width)
        except ValueError as error:
            self._problems.add("annotations without a usable mask", f"{where}: {error}")
            return None
        return Target(
            ref_id=ref.ref_id,
            ann_ids=(annotation.id,),
            category=self._categories[annotation.category_id],
            mask=mask,
            area=area,
        )

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
                    "empty expressions; correct `sent` in the refs file, or remove the sentence",
                    f"ref {ref.ref_id}, sentence {sentence.sent_id}, image {ref.image_id}",
                )
        return expressions
