"""One extra row in a small data set of every format, to be damaged while the other rows still import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import ImportedDataset
from tests.data.builders import (
    Grefs,
    Instances,
    Photos,
    Phrases,
    TinyDataset,
    good_coco,
    good_photos,
    good_phrases,
    good_refcoco,
)

TOP_LEFT = [0, 0, 9, 0, 9, 1, 0, 1]
"""A polygon inside any image that is at least one pixel high."""
SENTENCE = "one more"


def noise(path: Path, size: tuple[int, int], seed: int = 5) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@dataclass
class Subject:
    """One format's data set with one extra row, which has its own image and category.

    Attributes:
        made: the object that writes the files.
        dataset: the data set's name below ``made.root``.
        row: the extra row's name in the listing.
        photo: the extra row's image file.
        files: all JSON files.
        images, annotations, refs, sentences, categories: the rows of this format, the extra row's last.
    """

    made: Any
    dataset: str
    row: str
    split: str
    photo: Path
    root: Path
    files: list[Path]
    say: Callable[[str | None], None]
    label: Callable[[str], None]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    refs: list[dict[str, Any]] = field(default_factory=list)
    sentences: list[dict[str, Any]] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    name: Callable[[str], None] | None = None
    """Changes the path of the extra row's image."""


def refcoco(folder: Path) -> Subject:
    tiny = good_refcoco(folder)
    size = {"height": 40, "width": 60}
    return _refs(tiny, 8, size, TinyDataset.ref(16, 108, 8, "train", SENTENCE), tiny.refs, tiny.images)


def grefcoco(folder: Path) -> Subject:
    grefs = Grefs(folder)
    size = {"height": 60, "width": 80}
    ref = Grefs.ref(16, [108], 8, "train", SENTENCE)
    return _refs(grefs, 8, size, ref, grefs.refs, grefs.root / "images" / "train2014")


def _refs(made: Any, image_id: int, size: dict[str, int], ref: Any, refs: list[Any], images: Path) -> Subject:
    name = f"COCO_train2014_{image_id:012d}.jpg"
    noise(images / name, (size["width"], size["height"]))
    instances = made.instances
    instances["images"].append({"id": image_id, "file_name": name, **size})
    row = {"id": 108, "image_id": image_id, "category_id": 9, "segmentation": [TOP_LEFT]}
    instances["annotations"].append(row)
    instances["categories"] = [*instances["categories"], {"id": 9, "name": "more"}]
    refs.append(ref)
    place = made.root / ("grefcoco" if isinstance(made, Grefs) else "refcoco")
    return Subject(
        made=made,
        dataset=place.name,
        row="ref 16",
        split="train",
        photo=images / name,
        root=images,
        files=[place / "instances.json", *([place / "grefs(unc).json"] if isinstance(made, Grefs) else [])],
        say=lambda text: ref["sentences"][0].update(sent=text),
        label=lambda text: instances["categories"][-1].update(name=text),
        images=instances["images"],
        annotations=instances["annotations"],
        refs=refs,
        sentences=ref["sentences"],
        categories=instances["categories"],
        name=lambda path: instances["images"][-1].update(file_name=path),
    )


def coco(folder: Path) -> Subject:
    made: Instances = good_coco(folder)
    noise(made.root / "c.png", (60, 40))
    said = made.said
    said["images"].append({"id": 6, "file_name": "c.png", "height": 40, "width": 60})
    row = {**made.annotation(90, 6, sentences=[SENTENCE]), "category_id": 9, "segmentation": [TOP_LEFT]}
    said["annotations"].append(row)
    said["categories"].append({"id": 9, "name": "more"})
    return Subject(
        made=made,
        dataset="annotations/said.json",
        row="ref 90",
        split="train",
        photo=made.root / "c.png",
        root=made.root,
        files=[made.root / "annotations" / "said.json"],
        say=lambda text: row.update(sentences=[text]),
        label=lambda text: said["categories"][-1].update(name=text),
        images=said["images"],
        annotations=said["annotations"],
        categories=said["categories"],
        name=lambda path: said["images"][-1].update(file_name=path),
    )


def phrasecut(folder: Path) -> Subject:
    made: Phrases = good_phrases(folder)
    made.images.append(made.image(11, "val", None))
    task = made.task(11, SENTENCE, [[[[0, 0], [8, 0], [8, 0]]]], "name", "more")
    made.tasks["val"].append(task)
    photo = made.place / "images" / "11.jpg"
    return Subject(
        made=made,
        dataset="phrasecut",
        row=f"phrase {len(made.tasks['val']) - 1}",
        split="val",
        photo=photo,
        root=photo.parent,
        files=[made.place / name for name in ("refer_val.json", "image_data_split.json")],
        say=lambda text: task.update(phrase=text),
        label=lambda text: task["phrase_structure"].update(name=text),
        images=made.images,
        refs=made.tasks["val"],
    )


def jsonl(folder: Path) -> Subject:
    made: Photos = good_photos(folder)
    noise(made.root / "3.png", (60, 40))
    line = {"image": "3.png", "sentence": SENTENCE, "mask": [TOP_LEFT], "category": "more"}
    made.lines.append(line)
    return Subject(
        made=made,
        dataset="people.jsonl",
        row=f"line {len(made.lines)}",
        split="train",
        photo=made.root / "3.png",
        root=made.root,
        files=[made.root / "people.jsonl"],
        say=lambda text: line.update(sentence=text),
        label=lambda text: line.update(category=text),
        refs=made.lines,
        name=lambda path: line.update(image=path),
    )


SUBJECTS = {one.__name__: one for one in (refcoco, grefcoco, coco, phrasecut, jsonl)}


def imported(subject: Subject, out: Path, **options: Any) -> ImportReport:
    """Import the data set as it is currently written."""
    return import_dataset(subject.made.root, subject.dataset, out, ImportOptions(**options))


def records(out: Path) -> list[dict[str, Any]]:
    """All imported records, each with its split."""
    dataset = ImportedDataset(out)
    return [
        {"split": split, **record.model_dump(mode="json")}
        for split in dataset.info.splits
        for record in dataset.records(split)
    ]
