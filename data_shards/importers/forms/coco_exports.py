"""Converts what annotation tools write differently from COCO to COCO's form; rows keep their places.

- Roboflow: images beside ``_annotations.coco.json``, one folder per split.
- CVAT and others: images in ``images``; texts in an annotation's ``attributes``; ids from 1 in every file.
- LVIS: ``coco_url`` and no ``file_name``. Label Studio: paths on its own server.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from maris_fast.data_shards.importers.source import Document, Source

Row = dict[str, Any]

TEXTS = ("sentences", "sentence", "expression", "caption", "description", "text")
"""Names of attributes that hold sentences."""
UNKNOWN_CATEGORY = -1
_LOOKED_FOR = 20
"""Number of a file's images that are tried to find the folder of all."""
_OF_LABEL_STUDIO = ("label-studio", "/data/local-files", "/data/upload")


def as_coco(source: Source, documents: Sequence[Document], image_root: Path) -> list[Document]:
    """
    Args:
        image_root: the folder that image names are relative to afterwards.
    """
    changed = [
        _with_rows(document, images=_placed(source, document, image_root), annotations=_said)
        for document in documents
    ]
    if source.options.category_sentences:
        changed = [_called_by_category(document) for document in changed]
    return changed


def _with_rows(document: Document, **changes: Callable[[Row], Row]) -> Document:
    """The document with each row of the named lists changed; anything of another structure stays as it is."""
    content = document.content_or_none()
    if not isinstance(content, dict):
        return document
    lists = {
        name: [change(row) if isinstance(row, dict) else row for row in content[name]]
        for name, change in changes.items()
        if isinstance(content.get(name), list)
    }
    return document.changed({**content, **lists})


def _placed(source: Source, document: Document, image_root: Path) -> Callable[[Row], Row]:
    """A function that gives images their path below the image folder, by where the first is found."""
    beside = document.path.parent
    places = [beside, beside / "images", beside.parent / "images"]
    if document.split is not None:
        places += [place / document.split for place in places[1:]]
    below = [
        "",
        *(str(place.relative_to(image_root)) for place in places if place.is_relative_to(image_root)),
    ]
    if source.options.images is not None:
        below = [source.images_of(document.split)]
    names = [name for row in document.dicts("images")[:_LOOKED_FOR] if (name := _file_name(row))]
    there = (one for name in names for one in below if (image_root / one / name).exists())
    folder = next(there, below[-1] if len(below) == 1 else "")

    def placed(row: Row) -> Row:
        name = _file_name(row)
        return row if name is None else {**row, "file_name": str(PurePosixPath(folder, name))}

    return placed


def _file_name(row: Row) -> str | None:
    name, url = row.get("file_name"), row.get("coco_url")
    if name is None and isinstance(url, str):
        return "/".join(urlsplit(url).path.split("/")[-2:])  # train2017/000000000009.jpg
    if isinstance(name, str) and any(part in name for part in _OF_LABEL_STUDIO):
        return name.replace("\\", "/").rsplit("/", 1)[-1]
    return name if isinstance(name, str) else None


def _said(row: Row) -> Row:
    """The row with each line of its text attributes as a sentence."""
    attributes = row.get("attributes")
    if is_said(row) or not isinstance(attributes, dict):
        return row
    texts = [attributes[name] for name in TEXTS if isinstance(attributes.get(name), str)]
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    return {**row, "sentences": lines} if lines else row


def is_said(row: Row) -> bool:
    """Whether the annotation has sentences; others are not checked."""
    return row.get("sentences") not in (None, []) or row.get("caption") is not None


def _called_by_category(document: Document) -> Document:
    """Join objects of an image and a category that have no sentence; the category's name becomes theirs."""
    content = document.content_or_none()
    rows = content.get("annotations") if isinstance(content, dict) else None
    categories = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not isinstance(categories, list):
        return document
    names = {hashable(row.get("id")): row.get("name") for row in categories if isinstance(row, dict)}
    groups: dict[tuple[Hashable, Hashable, bool], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if isinstance(row, dict) and not is_said(row):
            image, category = hashable(row.get("image_id")), hashable(row.get("category_id"))
            groups[image, category, bool(row.get("iscrowd"))].append(place)
    called = list(rows)
    for (image, category, crowd), places in groups.items():
        if crowd and (image, category, False) in groups:
            continue
        name = names.get(category)
        called[places[0]] = {
            **_joined([rows[place] for place in places]),
            "sentences": [name.replace("_", " ") if isinstance(name, str) else name],
        }
    return document.changed({**content, "annotations": called})


def _joined(rows: Sequence[Row]) -> Row:
    """The first row with the masks of all, or no mask if one has none, as a part would be another target."""
    if len(rows) == 1:
        return rows[0]
    masks = [row.get("segmentation") for row in rows]
    parts = [mask if isinstance(mask, list) else [mask] for mask in masks if mask]
    whole = [part for mask in parts for part in mask] if len(parts) == len(rows) else None
    return {**rows[0], "segmentation": whole}


def hashable(value: Any) -> Hashable:
    """A hashable value for whatever a file has in place of an id."""
    return value if isinstance(value, Hashable) else repr(value)


def numbered(documents: Sequence[Document]) -> list[Document]:
    """Make ids distinct across files: of categories always, of images and annotations if files conflict.

    The first file keeps its ids, others are offset past the largest before. An image in several files is one.
    """
    if len(documents) < 2:
        return list(documents)
    at_odds = _at_odds(documents)
    images: dict[Hashable, int] = {}
    first = dict.fromkeys(("images", "annotations", "categories"), 0)
    apart = []
    for document in documents:
        categories = {own: first["categories"] + own for own in _ids(document, "categories")}
        number = {}
        for row in document.dicts("images") if at_odds else ():
            if isinstance(own := row.get("id"), int):
                number[own] = images.setdefault(hashable(row.get("file_name")), first["images"] + own)
        apart.append(
            _with_rows(
                document,
                images=_with_ids(id=number),
                categories=_with_ids(id=categories),
                annotations=_with_ids(
                    id={own: first["annotations"] + own for own in _ids(document, "annotations") if at_odds},
                    image_id=number,
                    category_id=defaultdict(lambda: UNKNOWN_CATEGORY, categories),
                ),
            )
        )
        first = {name: max(before - 1, *_ids(apart[-1], name), -1) + 1 for name, before in first.items()}
    return apart


def _ids(document: Document, name: str) -> list[int]:
    return [row["id"] for row in document.dicts(name) if isinstance(row.get("id"), int)]


def _with_ids(**numbers: Mapping[int, int]) -> Callable[[Row], Row]:
    """A function that replaces rows' numbers, by key; non-numbers and numbers without a mapping are kept."""

    def changed(row: Row) -> Row:
        said = {key: row[key] for key in numbers if isinstance(row.get(key), int)}
        new = {key: _number(numbers[key], own) for key, own in said.items()}
        return row if new == said else {**row, **new}

    return changed


def _number(numbers: Mapping[int, int], own: int) -> int:
    try:
        return numbers[own]
    except KeyError:
        return own


def _at_odds(documents: Sequence[Document]) -> bool:
    """Whether an id of an image or of an annotation means several image files."""
    files: dict[Hashable, set[Hashable]] = defaultdict(set)
    for document in documents:
        names = {}
        for row in document.dicts("images"):
            own = names[hashable(row.get("id"))] = hashable(row.get("file_name"))
            files["images", hashable(row.get("id"))].add(own)
        for row in document.dicts("annotations"):
            if is_said(row):
                files["annotations", hashable(row.get("id"))].add(names.get(hashable(row.get("image_id"))))
    return any(len(of_id) > 1 for of_id in files.values())
