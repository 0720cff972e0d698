"""Users' own data as COCO's instances.json whose annotations have expressions.

``docs/datasets.md`` has the format with an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from maris_fast.data_shards.importers.annotations import (
    AnnotationRow,
    ImageRow,
    RefRow,
    SentenceRow,
    SplitName,
    or_default,
)
from maris_fast.data_shards.importers.checked_rows import Misshapen, split_of
from maris_fast.data_shards.importers.forms.coco_exports import as_coco, is_said, numbered
from maris_fast.data_shards.importers.grouping import Refs, write_refs
from maris_fast.data_shards.importers.instances import Instances, read_instances
from maris_fast.data_shards.importers.source import Document, Form, Source
from maris_fast.data_shards.records import TRAIN, UNKNOWN_SPLIT, DatasetInfo
from maris_fast.errors import InputError


class SaidImageRow(ImageRow):
    split: SplitName | None = None


class SaidAnnotationRow(AnnotationRow):
    """An object; without sentences it is not referred to."""

    sentences: Annotated[list[str], or_default(())] = Field(default_factory=list)
    caption: str | None = None

    @field_validator("sentences", mode="before")
    @classmethod
    def _texts(cls, rows: Any) -> Any:
        """Accept RefCOCO's rows with ``sent`` too."""
        if isinstance(rows, list):
            texts = (row.get("sent") if isinstance(row, dict) and "sent" in row else row for row in rows)
            return ["" if text is None else text for text in texts]
        return rows

    @property
    def texts(self) -> list[str]:
        return [*self.sentences, *(() if self.caption is None else (self.caption,))]


class SaidRefRow(RefRow):
    split: str
    """``UNKNOWN_SPLIT`` for an image that the file lacks, if its images name their split."""

    @property
    def content(self) -> object:
        """Without the sentences' ids, which are not in the file."""
        return self.image_id, self.split, [sentence.sent for sentence in self.sentences]


@dataclass(frozen=True)
class _CocoFile:
    """A file's rows, with only those annotations that are referred to, and its split if its name has one."""

    split: str | None
    said: Instances[SaidImageRow, SaidAnnotationRow]

    @cached_property
    def misshapen(self) -> list[Misshapen]:
        """The malformed rows, with their split."""
        return [one._replace(keys={**_keys(one), "split": self._split(one)}) for one in self.said.misshapen]

    @cached_property
    def _splits(self) -> dict[int | None, str | None]:
        broken = {one.id(): self._split(one) for one in self.said.misshapen if one.of == "images"}
        return {image.id: image.split for image in self.said.images} | broken

    @cached_property
    def _of_unknown(self) -> str:
        return UNKNOWN_SPLIT if any(image.split for image in self.said.images) else TRAIN

    def _split(self, one: Misshapen) -> str:
        if one.of == "annotations":
            return self.split_of(one.id("image_id"))
        return self.split or (split_of(one.keys, missing=TRAIN) if one.of == "images" else UNKNOWN_SPLIT)

    def split_of(self, image_id: int | None) -> str:
        """``UNKNOWN_SPLIT`` for an image that the file lacks, if its images name their split."""
        return self.split or self._splits.get(image_id, self._of_unknown) or TRAIN


def read(source: Source) -> DatasetInfo:
    """Read annotations with ``sentences`` or a ``caption``; those without are ignored.

    Such an annotation is a ref with the annotation's id; sentences are numbered from 1, including those that
    are left out. An image belongs to its ``split``, or to "train" if it has none.
    """
    head = source.head()
    return read_documents(source, as_coco(source, source.documents, Path(head.image_root)), head)


def read_documents(source: Source, documents: Sequence[Document], head: DatasetInfo) -> DatasetInfo:
    """As ``read``, for documents that were converted to this form."""
    what = "COCO's instances.json with sentences"
    read = [
        _CocoFile(document.split, read_instances(document, SaidImageRow, SaidAnnotationRow, _of_use, what))
        for document in numbered(documents)
    ]
    rows: list[RefRow] = []
    for file in read:
        rows += _refs(file, first_sentence=1 + sum(len(ref.sentences) for ref in rows))
    misshapen = [one for file in read for one in file.misshapen if one.of == "annotations"]
    if not rows and not misshapen:
        raise InputError(
            f"no annotation in {source.place} has `sentences` or a `caption`, so nothing is referred to; "
            "with `category_sentences` the name of a category is a sentence"
        )
    return write_refs(source, Refs(rows, misshapen), _joined(read, source.place.name), head)


def _of_use(keys: Any) -> bool:
    return not isinstance(keys, dict) or is_said(keys)


def _keys(one: Misshapen) -> dict[str, Any]:
    return one.keys if isinstance(one.keys, dict) else {}


def _refs(file: _CocoFile, *, first_sentence: int) -> list[RefRow]:
    others = {image.split for image in file.said.images} - {None, file.split}
    if file.split is not None and others:
        raise InputError(
            f"{file.said.file} is named for the split {file.split}, but has images of "
            f"{', '.join(map(str, others))}"
        )
    refs: list[RefRow] = []
    sentence = first_sentence
    for annotation in file.said.annotations:
        texts = annotation.texts
        refs.append(
            SaidRefRow.model_construct(  # its parts are checked; an id of -1 is an object here
                ref_id=annotation.id,
                ann_ids=(annotation.id,),
                image_id=annotation.image_id,
                split=file.split_of(annotation.image_id),
                sentences=[SentenceRow(sent_id=sentence + i, sent=text) for i, text in enumerate(texts)],
            )
        )
        sentence += len(texts)
    return refs


def _joined(files: Sequence[_CocoFile], file: str) -> Instances[ImageRow, AnnotationRow]:
    """The rows of all files as one file, named ``file``."""
    return Instances(
        files[0].said.info,
        [
            image.model_copy(update={"split": None}) if one.split is not None else image
            for one in files
            for image in one.said.images
        ],
        [annotation for one in files for annotation in one.said.annotations],
        [category for one in files for category in one.said.categories],
        [row for one in files for row in one.misshapen if row.of != "annotations"],
        file,
    )


COCO = Form(
    "NAME.json, COCO's instances.json with sentences in annotations, as annotation tools export it",
    lambda source: (
        (source.place.suffix == ".json" and source.content() is None)
        or not {"images", "annotations"}.isdisjoint(source.lists())
    ),
    read,
)
