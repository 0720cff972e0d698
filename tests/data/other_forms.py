"""The same data set in RefCOCO's own layout and in the forms that others publish."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import DatasetInfo
from tests.data.builders import TinyDataset
from tests.data.import_subjects import records

COCO_NAMES = [{"id": 1, "name": "person"}, {"id": 2, "name": "bicycle"}]


class Family:
    """RefCOCO's files and their contents.

    Attributes:
        root: folder of RefCOCO's own layout; other forms are written below it.
    """

    def __init__(self, root: Path, refs: list[dict[str, Any]], instances: dict[str, Any], out: Path) -> None:
        self.root, self.refs, self.instances, self.out = root, refs, instances, out
        self.images = {row["id"]: row for row in instances["images"]}
        self.annotations = {row["id"]: row for row in instances["annotations"]}

    def split(self, split: str) -> list[dict[str, Any]]:
        return [ref for ref in self.refs if ref["split"] == split]

    @property
    def splits(self) -> list[str]:
        return sorted({ref["split"] for ref in self.refs})

    @property
    def repeats(self) -> bool:
        """Whether several refs to an image have the same first sentence."""
        first = [(ref["split"], ref["image_id"], ref["sentences"][0]["sent"]) for ref in self.refs]
        return len(set(first)) < len(first)

    def write(self) -> None:
        """Write RefCOCO's files again after a change."""
        (self.root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps(self.refs, 2))
        (self.root / "refcoco" / "instances.json").write_text(json.dumps(self.instances))

    def own(self) -> list[dict[str, Any]]:
        """The records as imported from RefCOCO's own layout."""
        import_dataset(self.root, "refcoco", self.out / "own", split_by="unc")
        return records(self.out / "own")

    def imported(self, dataset: str, out: str = "other", **options: Any) -> DatasetInfo:
        return import_dataset(self.root, dataset, self.out / out, ImportOptions(**options)).info


def small_family(folder: Path) -> Family:
    """A small synthetic data set with COCO's names of images and categories."""
    tiny = TinyDataset(folder)
    tiny.instances["categories"] = COCO_NAMES
    for row in tiny.instances["annotations"]:
        row.update(bbox=[10, 10, 10, 10], area=100, iscrowd=0)
    tiny.write()
    return Family(tiny.root, tiny.refs, tiny.instances, tiny.out.parent)


def real_family(refmini: Path, folder: Path) -> Family:
    """A copy of the real images and annotations in ``refmini``."""
    root = folder / "data"
    for name in ("refcoco", "images"):
        shutil.copytree(refmini / name, root / name)
    refs = json.loads((refmini / "refcoco" / "refs(unc).p.json").read_text())
    instances = json.loads((refmini / "refcoco" / "instances.json").read_text())
    return Family(root, refs, instances, folder)


def masks(imported: list[dict[str, Any]]) -> dict[tuple[str, str, str], str]:
    """Run lengths by split, image and sentence, which must be the same in every form."""
    return {
        (record["split"], record["image"], said["text"]): record["targets"][said["target"]]["mask"]["counts"]
        for record in imported
        for said in record["expressions"]
    }
