"""The examples in docs/datasets.md import as the document says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.records import ImportedDataset, SplitCounts

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


def example(beginning: str) -> str:
    (block,) = re.findall(rf"```\n({re.escape(beginning)}.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return block


def photos(root: Path) -> Path:
    for name in ("kitchen/1.jpg", "kitchen/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 480)).save(root / name)
    return root


def test_the_example_of_json_lines_imports(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "masks").mkdir()
    inside = np.zeros((480, 640), np.uint8)
    inside[100:200, 300:400] = 1
    Image.fromarray(inside).save(root / "masks" / "1-kettle.png")
    (root / "people.jsonl").write_text(example('{"image"'))
    assert import_dataset(root, "people.jsonl", tmp_path / "out").info.splits == {
        "train": SplitCounts(refs=2, sentences=3, images=1),
        "val": SplitCounts(refs=2, sentences=2, images=1),
    }
    (val,) = ImportedDataset(tmp_path / "out").records("val")
    assert [target.area for target in val.targets] == [4800, 0]


def test_the_example_of_instances_imports(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "kitchen.json").write_text(json.dumps(json.loads(example('{"images"'))))
    report = import_dataset(root, "kitchen.json", tmp_path / "out")
    assert report.info.splits == {"train": SplitCounts(refs=1, sentences=2, images=1)}
