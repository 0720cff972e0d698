"""COCO's lists with a caption an image: MDETR's ``finetune_*.json``, ReferFormer's ``instances_*.json``.

Their converters (``refexp_coco_format.py``, ``convert_refexp_to_coco.py``) write an image and its annotation
again for every sentence; ``original_id`` is COCO's. MDETR's files have boxes alone.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from maris_fast.data_shards.importers.forms.coco import read_documents
from maris_fast.data_shards.importers.forms.coco_exports import is_said
from maris_fast.data_shards.importers.forms.refer import OF_COCO
from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.published import published_as
from maris_fast.data_shards.importers.source import Document, Form, Source
from maris_fast.data_shards.importers.split_names import split_of_name
from maris_fast.data_shards.records import TRAIN, DatasetInfo
from maris_fast.errors import InputError


def read(source: Source) -> DatasetInfo:
    """Captions of an image and an annotation of the same original ids mean one object."""
    documents = [_regrouped(document) for document in source.documents]
    names = {row.get("dataset_name") for document in documents for row in _dicts(document.content["images"])}
    if len(names) > 1:
        raise InputError(
            f"{source.place} holds several data sets, {', '.join(sorted(map(str, names)))}; name the files "
            'of one, as in "finetune_refcoco_{split}.json"'
        )
    name, split_by = published_as(str(next(iter(names), None) or source.dataset))
    head = source.head(name, split_by, images=IMAGE_ROOTS, coco_annotations=name in OF_COCO)
    return read_documents(source, documents, head)


def _regrouped(document: Document) -> Document:
    """Rows keep their places; the first of an annotation has the sentences of all, images have COCO's ids.

    Raises:
        InputError: a caption has several objects.
    """
    images, annotations = document.content["images"], document.content["annotations"]
    by_id = {row["id"]: row for row in _dicts(images) if isinstance(row.get("id"), int)}
    objects = Counter(row.get("image_id") for row in _dicts(annotations))
    several = [one for one in by_id if objects[one] > 1]
    if several:
        raise InputError(
            f"{document.path}: {len(several):,} captions, such as that of image {several[0]}, have several "
            "annotations, and nothing says which one is meant"
        )
    said: dict[tuple[Any, Any], list[str | None]] = {}
    regrouped = []
    for row in annotations:
        image = by_id.get(row.get("image_id")) if isinstance(row, dict) else None
        if image is not None:
            image_id, ann_id = _original(image), row.get("original_id", row.get("id"))
            texts = said.setdefault((image_id, ann_id), [])
            texts.append(image.get("caption"))
            row = {**row, "id": ann_id, "image_id": image_id, "sentences": texts if len(texts) == 1 else []}
        elif isinstance(row, dict):
            row = {**row, "image_id": f"{row.get('image_id')}, which is no image's id", "sentences": [""]}
        regrouped.append(row)
    without = [row for one, row in by_id.items() if not objects[one]]
    regrouped += [  # told as an annotation without a mask
        {"id": -1 - place, "image_id": _original(row), "sentences": [row.get("caption")]}
        for place, row in enumerate(without)
    ]
    kept = [
        {**row, "id": _original(row), "caption": None} if isinstance(row, dict) else row for row in images
    ]
    split = document.split or split_of_name(document.path.stem) or TRAIN
    return document.changed({**document.content, "images": kept, "annotations": regrouped}, split)


def _original(image: dict[str, Any]) -> Any:
    return image.get("original_id", image.get("id"))


def _dicts(rows: list[Any]) -> list[dict[str, Any]]:
    return [row for row in rows if isinstance(row, dict)]


CAPTIONS = Form(
    "captions",
    "COCO's lists with a `caption` in images, as MDETR's finetune_refcoco_<split>.json and ReferFormer's",
    lambda source: (
        any("caption" in row for row in source.rows("images"))
        and not any(map(is_said, source.rows("annotations")))
    ),
    read,
)
