"""Small data sets in each format, which tests change before they import them."""

from __future__ import annotations

import json
import pickle
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import ImageRecord, ImportedDataset

HEIGHT, WIDTH = 40, 60
"""Of all images here, except gRefCOCO's."""
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
OVERLAPPING = [15, 10, 25, 10, 25, 20, 15, 20]
STRIPE = {"size": [HEIGHT, WIDTH], "counts": [40, 80, HEIGHT * WIDTH - 120]}
FAR = [[40, 5], [50, 5], [50, 15]]
_DRAWN_SQUARE = [[10.2, 10.9], [20.7, 10.2], [20.1, 20.9], [10.0, 20.0]]
_TASK_NUMBERS = count()


def _save_noise(file: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)


class Builder:
    """A data set in a folder of its own.

    Attributes:
        dataset: its name below ``root``, by which it is imported.
        out: where it is imported to.
    """

    dataset: str

    def __init__(self, folder: Path, name: str) -> None:
        self.root, self.out = folder / name, folder / "out" / "imported"
        self.root.mkdir(parents=True)
        self.out.parent.mkdir()

    def write(self) -> None:
        """Write its files as they are described now."""
        raise NotImplementedError

    def imported(self, **options: Any) -> ImportReport:
        """Write it, then import it."""
        self.write()
        return self.import_written(**options)

    def import_written(self, **options: Any) -> ImportReport:
        return import_dataset(self.root, self.dataset, self.out, ImportOptions(**options))


class TinyDataset(Builder):
    """Two images with three refs, laid out as RefCOCO; change ``refs`` or ``instances``, then import."""

    dataset = "refcoco"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "data")
        self.images = self.root / "images" / "train2014"
        self.place = self.root / "refcoco"
        self.images.mkdir(parents=True)
        self.place.mkdir()
        names = {7: "COCO_train2014_000000000007.jpg", 3: "COCO_train2014_000000000003.jpg"}
        rng = np.random.default_rng(0)
        for name in names.values():
            Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(self.images / name)
        self.refs: list[dict[str, Any]] = [
            self.ref(12, 102, 7, "train", "the wide one"),
            self.ref(11, 101, 7, "train", " left square ", "square"),
            self.ref(13, 103, 3, "val", "rle"),
        ]
        self.instances: dict[str, Any] = {
            "images": [
                {"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in names.items()
            ],
            "annotations": [
                {"id": 101, "image_id": 7, "category_id": 1, "segmentation": [SQUARE]},
                {"id": 102, "image_id": 7, "category_id": 2, "segmentation": [SQUARE, OVERLAPPING]},
                {"id": 103, "image_id": 3, "category_id": 2, "segmentation": {**STRIPE}},
            ],
            "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "thing"}],
        }

    @staticmethod
    def ref(ref_id: int, ann_id: int, image_id: int, split: str, *sentences: str) -> dict[str, Any]:
        return {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "image_id": image_id,
            "split": split,
            "file_name": "COCO_train2014_000000000000_0.jpg",
            "sentences": [{"sent_id": ref_id * 10 + i, "sent": s} for i, s in enumerate(sentences)],
        }

    def image(self, image_id: int) -> Path:
        return self.images / f"COCO_train2014_{image_id:012d}.jpg"

    def annotation(self, ann_id: int) -> dict[str, Any]:
        return next(row for row in self.instances["annotations"] if row["id"] == ann_id)

    def write(self) -> None:
        (self.root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(self.refs, 2))
        (self.root / "refcoco" / "instances.json").write_text(json.dumps(self.instances))

    def imported(self, **options: Any) -> ImportReport:
        """Import what was written last: a test may have damaged it since."""
        return self.import_written(**options)


def _grefs_instances(images: Path) -> dict[str, Any]:
    """Two images of noise with two boxes each, as COCO's instances.json."""
    images.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id in (9, 25):
        name = f"COCO_train2014_{image_id:012d}.jpg"
        _save_noise(images / name, image_id, 60, 80)
        rows.append({"id": image_id, "file_name": name, "height": 60, "width": 80})
        for left in (10, 25):  # they overlap
            box = [left, 10, left + 20, 10, left + 20, 40, left, 40]
            annotations.append(
                {
                    "id": 100 * image_id + left,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "segmentation": [box],
                }
            )
    return {
        "images": rows,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
    }


class Grefs(Builder):
    """gRefCOCO's two files; change ``refs`` or ``instances``, then import."""

    dataset = "grefcoco"

    def __init__(self, folder: Path, refmini: Path | None = None) -> None:
        super().__init__(folder, "data")
        (self.root / "grefcoco").mkdir()
        self.instances: dict[str, Any]
        if refmini is None:
            self.instances = _grefs_instances(self.root / "images" / "train2014")
        else:
            (self.root / "images").symlink_to(refmini / "images")
            self.instances = json.loads((refmini / "refcoco" / "instances.json").read_text())
        by_image: dict[int, list[dict[str, Any]]] = {}
        for annotation in self.instances["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        several = {image: rows for image, rows in by_image.items() if len(rows) >= 2}
        (self.first, self.objects), (self.second, self.others) = sorted(several.items())[:2]
        one, two, other = self.objects[0], self.objects[1], self.others[0]
        self.refs: list[dict[str, Any]] = [
            self.ref(1, [one["id"]], self.first, "train", "the one"),
            self.ref(2, [one["id"], two["id"]], self.first, "train", "both of them", "the pair"),
            self.ref(3, [-1], self.first, "train", "the green elephant"),
            self.ref(4, other["id"], self.second, "val", "single, as a number"),
            self.ref(5, [-1], self.second, "val", "nobody"),
        ]

    @staticmethod
    def ref(ref_id: int, ann_id: Any, image_id: int, split: str, *sentences: str) -> dict[str, Any]:
        said = [
            {"sent_id": 10 * ref_id + i, "sent": text, "raw": text, "tokens": text.split(), "exist": True}
            for i, text in enumerate(sentences)
        ]
        return {
            "ref_id": ref_id,
            "ann_id": ann_id,
            "category_id": [1] if isinstance(ann_id, list) else 1,
            "image_id": image_id,
            "split": split,
            "file_name": "COCO_train2014_000000000000_0.jpg",
            "no_target": ann_id == [-1],
            "sent_ids": [one["sent_id"] for one in said],
            "sentences": said,
        }

    def annotation(self, ann_id: int) -> dict[str, Any]:
        return next(row for row in self.instances["annotations"] if row["id"] == ann_id)

    def write(self) -> None:
        (self.root / "grefcoco" / "grefs(unc).json").write_text(json.dumps(self.refs))
        (self.root / "grefcoco" / "instances.json").write_text(json.dumps(self.instances))

    def train(self) -> ImageRecord:
        (record,) = ImportedDataset(self.out).records("train")
        return record


class Photos(Builder):
    """Two photos, a mask and lines about them; change ``lines``, then import."""

    dataset = "people.jsonl"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "photos")
        (self.root / "kitchen").mkdir()
        for number, name in enumerate(("kitchen/1.jpg", "2.png")):
            _save_noise(self.root / name, number)
        self.pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        self.pixels[5:15, 30:50] = 255
        Image.fromarray(self.pixels).save(self.root / "cup.png")
        compressed = coco_mask.encode(np.asfortranarray(self.pixels // 255))
        rle = {"size": [HEIGHT, WIDTH], "counts": compressed["counts"].decode()}
        self.lines: list[Any] = [
            {"image": "kitchen/1.jpg", "sentence": "the red mug", "mask": [SQUARE], "category": "mug"},
            {"image": "kitchen/1.jpg", "sentences": ["cup", " left cup "], "mask": "cup.png"},
            {"image": "2.png", "sentence": "the stripe", "mask": STRIPE, "split": "val", "kind": "shape"},
            {
                "image": "2.png",
                "split": "val",
                "objects": [
                    {"sentence": "a cup", "mask": rle},
                    {"sentences": ["an elephant", "a moose"], "mask": None},
                ],
            },
            {"image": "kitchen/1.jpg", "sentence": "mug", "mask": [SQUARE], "category": "mug"},
        ]

    def write(self, name: str = "people.jsonl") -> None:
        text = [line if isinstance(line, str) else json.dumps(line) for line in self.lines]
        (self.root / name).write_text("\n".join(text) + "\n")

    def record(self, split: str) -> ImageRecord:
        (record,) = ImportedDataset(self.out).records(split)
        return record


class Phrases(Builder):
    """PhraseCut's files with two splits; change ``tasks`` or ``images``, then import."""

    dataset = "phrasecut"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "data")
        self.place = self.root / "phrasecut"
        (self.place / "images").mkdir(parents=True)
        self.images = [
            self.image(2316003, "val", 581_000),
            self.image(7, "val", None),
            self.image(9, "miniv", None),
        ]
        self.tasks = {
            "val": [
                self.task(2316003, "white dog", [[_DRAWN_SQUARE], [FAR, [[1, 1]]]], "attribute", "dog"),
                self.task(7, "wall", [[FAR]], "name", "wall"),
                self.task(2316003, "man riding horse", [[_DRAWN_SQUARE]], "relation", "man"),
            ],
            "miniv": [self.task(9, "tree", [[FAR]], "name", "tree")],
        }

    def image(self, image_id: int, split: str, coco_id: int | None) -> dict[str, Any]:
        Image.new("RGB", (WIDTH, HEIGHT), (image_id % 256, 0, 0)).save(
            self.place / "images" / f"{image_id}.jpg"
        )
        return {
            "image_id": image_id,
            "coco_id": coco_id,
            "flickr_id": 1,
            "width": WIDTH,
            "height": HEIGHT,
            "url": "",
            "split": split,
        }

    @staticmethod
    def task(image_id: int, phrase: str, polygons: Any, kind: str, name: str) -> dict[str, Any]:
        return {
            "task_id": f"{image_id}__{next(_TASK_NUMBERS)}",
            "image_id": image_id,
            "ann_ids": [100 * image_id + i for i in range(len(polygons))],
            "instance_boxes": [[0, 0, 5, 5] for _ in polygons],
            "Polygons": polygons,
            "phrase": phrase,
            "phrase_structure": {
                "name": name,
                "attributes": [],
                "relation_ids": [],
                "relation_descriptions": [["riding", "horse"]],
                "type": kind,
            },
        }

    def write(self) -> None:
        for split, tasks in self.tasks.items():
            (self.place / f"refer_{split}.json").write_text(json.dumps(tasks))
            (self.place / f"refer_input_{split}.json").write_text("[]")
        (self.place / "image_data_split.json").write_text(json.dumps(self.images))


class Instances(Builder):
    """One file of COCO's with sentences; change ``said``, then import."""

    dataset = "annotations/said.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "said")
        (self.root / "annotations").mkdir()
        for number, name in enumerate(("a.png", "b.png")):
            _save_noise(self.root / name, number)
        size = {"height": HEIGHT, "width": WIDTH}
        self.said: dict[str, Any] = {
            "images": [
                {"id": 5, "file_name": "a.png", **size},
                {"id": 4, "file_name": "b.png", "split": "val", **size},
            ],
            "annotations": [
                self.annotation(50, 5, sentences=["left square", {"sent": "square", "raw": "Square"}]),
                self.annotation(51, 5, caption="the same place"),
                self.annotation(52, 5),
                self.annotation(40, 4, sentences=["b"]),
            ],
            "categories": [{"id": 1, "name": "square"}],
        }

    @staticmethod
    def annotation(ann_id: int, image_id: int, **said: Any) -> dict[str, Any]:
        return {"id": ann_id, "image_id": image_id, "category_id": 1, "segmentation": [SQUARE], **said}

    def write(self, name: str = "said.json") -> None:
        (self.root / "annotations" / name).write_text(json.dumps(self.said))


# With enough rows that a few bad ones beside them are left out instead of refused.
def good_refcoco(folder: Path) -> TinyDataset:
    tiny = TinyDataset(folder)
    tiny.refs += [
        TinyDataset.ref(14, 101, 7, "train", "a", "b", "c"),
        TinyDataset.ref(15, 103, 3, "val", "d", "e", "f"),
    ]
    return tiny


def good_phrases(folder: Path) -> Phrases:
    phrases = Phrases(folder)
    phrases.tasks["val"] += [phrases.task(7, f"tile {i}", [[FAR]], "name", "tile") for i in range(5)]
    return phrases


def good_photos(folder: Path) -> Photos:
    photos = Photos(folder)
    more = [f"mug {i}" for i in range(9)]
    photos.lines += [{"image": "kitchen/1.jpg", "sentences": more, "mask": [SQUARE]}]
    return photos


def good_coco(folder: Path) -> Instances:
    coco = Instances(folder)
    coco.said["annotations"] += [
        coco.annotation(60, 5, sentences=["a", "b", "c"]),
        coco.annotation(61, 4, sentences=["d", "e"]),
    ]
    return coco
