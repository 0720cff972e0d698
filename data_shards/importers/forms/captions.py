"""COCO's lists with one caption per image: MDETR's ``finetune_*.json``, ReferFormer's ``instances_*.json``.

Their converters (``refexp_coco_format.py``, ``convert_refexp_to_coco.py``) repeat an image and its annotation
for every sentence; ``original_id`` is COCO's. MDETR's files have only boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

from maris_fast.data_shards.importers.forms.coco import read_documents
from maris_fast.data_shards.importers.forms.coco_exports import Row, hashable, is_said
from maris_fast.data_shards.importers.forms.refer import OF_COCO
from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.published import published_as
from maris_fast.data_shards.importers.source import Document, Form, Source
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError

_LISTS = ("images", "annotations")


def read(source: Source) -> DatasetInfo:
    """Read the captions; those whose image and annotation have the same original ids mean one object."""
    documents = [_regrouped(document) for document in source.documents]
    names = {str(row.get("dataset_name", "")) for document in documents for row in document.dicts("images")}
    if len(names) > 1:
        raise InputError(
            f"{source.place} holds several data sets, {', '.join(sorted(names))}; name the files of one, as "
            '"finetune_refcoco_{split}.json"'
        )
    name, split_by = published_as(next(iter(names), "") or source.dataset)
    head = source.head(name, split_by, images=IMAGE_ROOTS, coco_annotations=name in OF_COCO)
    return read_documents(source, documents, head)


def _regrouped(document: Document) -> Document:
    """The document with COCO's image ids and all sentences in an annotation's first row; rows keep places.

    Raises:
        InputError: a caption has several objects.
    """
    content = document.content_or_none()
    images, annotations = map(content.get, _LISTS) if isinstance(content, dict) else (None, None)
    if not isinstance(images, list) or not isinstance(annotations, list):
        return document  # reported when it is read
    by_id = {row["id"]: row for row in document.dicts("images") if isinstance(row.get("id"), int)}
    objects = Counter(hashable(row.get("image_id")) for row in document.dicts("annotations"))
    several = [one for one in by_id if objects[one] > 1]
    if several:
        raise InputError(
            f"{document.path}: {len(several):,} captions, such as that of image {several[0]}, have several "
            "annotations, and nothing says which one is meant"
        )
    said: dict[Hashable, list[Any]] = {}
    regrouped = []
    for row in annotations:
        if isinstance(row, dict):
            image = by_id.get(hashable(row.get("image_id")))
            row = _of_no_image(row) if image is None else _with_sentences(row, image, said)
        regrouped.append(row)
    without = [row for one, row in by_id.items() if not objects[one]]
    regrouped += [  # reported as an annotation without a mask
        {"id": -1 - place, "image_id": _original(row), "sentences": [row.get("caption")]}
        for place, row in enumerate(without)
    ]
    kept = [
        {**row, "id": _original(row), "caption": None} if isinstance(row, dict) else row for row in images
    ]
    return document.changed({**content, "images": kept, "annotations": regrouped}, document.split_or_train)


def _with_sentences(row: Row, image: Row, said: dict[Hashable, list[Any]]) -> Row:
    image_id, ann_id = _original(image), row.get("original_id", row.get("id"))
    texts = said.setdefault((hashable(image_id), hashable(ann_id)), [])
    texts.append(image.get("caption"))
    return {**row, "id": ann_id, "image_id": image_id, "sentences": texts if len(texts) == 1 else []}


def _of_no_image(row: Row) -> Row:
    """The row with an invalid ``image_id``, as its own may be that of another image in COCO."""
    return {**row, "image_id": f"{row.get('image_id')}, which is not an image id", "sentences": [""]}


def _original(image: Row) -> Any:
    return image.get("original_id", image.get("id"))


def _has_captions(source: Source) -> bool:
    document = source.first_with_rows("images")
    return (
        document is not None
        and any(isinstance(row.get("caption"), str) for row in source.rows("images"))
        and not any(map(is_said, document.dicts("annotations")))
    )


CAPTIONS = Form(
    "COCO's lists with a `caption` in images, as MDETR's finetune_refcoco_<split>.json and ReferFormer's",
    _has_captions,
    read,
)
