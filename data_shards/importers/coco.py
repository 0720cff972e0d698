"""People's own data as COCO's instances.json whose annotations carry expressions.

``docs/datasets.md`` has the format with an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from maris_fast.data_shards.importers.annotations import (
    AnnotationRow,
    CategoryRow,
    ImageRow,
    InstancesFile,
    RefRow,
    SentenceRow,
    SplitName,
    or_default,
)
from maris_fast.data_shards.importers.grouping import write_refs
from maris_fast.data_shards.importers.options import DEFAULT, ImportOptions
from maris_fast.data_shards.importers.own import SPLIT, own_head
from maris_fast.data_shards.importers.reading import read_json
from maris_fast.data_shards.importers.report import ImportReport
from maris_fast.data_shards.importers.splits import files_by_split
from maris_fast.data_shards.new_folder import new_folder
from maris_fast.data_shards.plain_json import checked_json
from maris_fast.data_shards.records import UNKNOWN_SPLIT
from maris_fast.errors import InputError, first_of

UNKNOWN_CATEGORY = -1


class SaidImageRow(ImageRow):
    split: SplitName | None = None


class SaidAnnotationRow(AnnotationRow):
    """An object; without sentences it is one that nobody refers to."""

    sentences: Annotated[list[str], or_default(())] = Field(default_factory=list)
    caption: str | None = None

    @field_validator("sentences", mode="before")
    @classmethod
    def _texts(cls, rows: Any) -> Any:
        """RefCOCO's rows with ``sent`` are understood too."""
        if isinstance(rows, list):
            texts = (row.get("sent") if isinstance(row, dict) and "sent" in row else row for row in rows)
            return ["" if text is None else text for text in texts]
        return rows

    @property
    def texts(self) -> list[str]:
        return [*self.sentences, *(() if self.caption is None else (self.caption,))]


class SaidRefRow(RefRow):
    split: str
    """``UNKNOWN_SPLIT`` of an image that the file lacks, where images say their split."""

    @property
    def content(self) -> object:
        """Without the sentences' ids, which no file gives."""
        return self.image_id, self.split, [sentence.sent for sentence in self.sentences]


def _said(rows: Any) -> Any:
    """The annotations that anybody refers to; what others look like is nobody's concern."""
    if not isinstance(rows, list):
        return rows
    return [
        row
        for row in rows
        if not isinstance(row, dict)
        or row.get("sentences") not in (None, [])
        or row.get("caption") is not None
    ]


class SaidInstancesFile(InstancesFile):
    images: list[SaidImageRow]  # type: ignore[assignment]
    annotations: Annotated[list[SaidAnnotationRow], BeforeValidator(_said)]  # type: ignore[assignment]


def import_coco(
    root: Path,
    dataset: str,
    out: Path,
    options: ImportOptions = DEFAULT,
) -> ImportReport:
    """Import annotations with ``sentences`` or a ``caption`` from ``root/<dataset>`` to the folder ``out``.

    An annotation with sentences is a ref with the annotation's id; sentences are numbered from 1, those that
    are left out too. Annotations without are ignored.

    Args:
        root: image paths are relative to it, or to ``options.images``.
        dataset: name of a file; with ``{split}`` in it, one file a split. Else an image's ``split`` says
            where it belongs, and "train" is meant where there is none.
        out: as ``import_refcoco``'s.

    Raises:
        InputError: as ``import_refcoco``.
    """
    root = Path(root).absolute()
    with new_folder(out) as folder:
        files = files_by_split(root, dataset)
        head = own_head(root, dataset, options)
        read = [(split, path, _read(path)) for split, path in files]
        refs: list[RefRow] = []
        for split, path, said in read:
            refs += _refs(said, split, path, first_sentence=1 + sum(len(ref.sentences) for ref in refs))
        if not refs:
            raise InputError(
                f"no annotation in {root / dataset} has `sentences` or a `caption`, so nothing is referred to"
            )
        instances = _joined([said for _, _, said in read])
        return ImportReport(out, write_refs(folder, refs, instances, head, options))


def _read(path: Path) -> SaidInstancesFile:
    try:
        said: SaidInstancesFile = checked_json(SaidInstancesFile, read_json(path))
    except ValueError as error:
        raise InputError(f"{path} is not COCO's instances.json with sentences: {first_of(error)}") from error
    return said


def _refs(said: SaidInstancesFile, split: str | None, path: Path, *, first_sentence: int) -> list[RefRow]:
    split_of = {image.id: image.split for image in said.images}
    if split is not None and (others := set(split_of.values()) - {None, split}):
        raise InputError(
            f"{path} is named for the split {split}, but has images of {', '.join(map(str, others))}"
        )
    of_unknown = UNKNOWN_SPLIT if any(split_of.values()) else SPLIT
    refs: list[RefRow] = []
    sentence = first_sentence
    for annotation in said.annotations:
        texts = annotation.texts
        if not texts:
            continue
        refs.append(
            SaidRefRow.model_construct(  # of checked parts; an id of -1 is an object here
                ref_id=annotation.id,
                ann_ids=(annotation.id,),
                image_id=annotation.image_id,
                split=split or split_of.get(annotation.image_id, of_unknown) or SPLIT,
                sentences=[SentenceRow(sent_id=sentence + i, sent=text) for i, text in enumerate(texts)],
            )
        )
        sentence += len(texts)
    return refs


def _joined(files: Sequence[SaidInstancesFile]) -> InstancesFile:
    """One file of all. Category ids mean what their own file says."""
    if len(files) == 1:
        return files[0]
    images: list[ImageRow] = []
    annotations: list[AnnotationRow] = []
    categories: list[CategoryRow] = []
    numbers = count()
    for said in files:
        images += [image.model_copy(update={"split": None}) for image in said.images]
        number: dict[int | None, int | None] = {None: None}
        for row in said.categories:
            number.setdefault(row.id, next(numbers))
        categories += [row.model_copy(update={"id": number[row.id]}) for row in said.categories]
        annotations += [
            row.model_copy(update={"category_id": number.get(row.category_id, UNKNOWN_CATEGORY)})
            for row in said.annotations
        ]
    return InstancesFile(images=images, annotations=annotations, categories=categories)
