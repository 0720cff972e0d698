"""The examples in docs/datasets.md import as the document says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.records import ImportedDataset, SplitCounts
from tests.command_line import maris_fast

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


def example(beginning: str) -> str:
    (block,) = re.findall(rf"```\n({re.escape(beginning)}.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return block


def photos(root: Path) -> Path:
    for name in ("kitchen/1.jpg", "kitchen/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 480)).save(root / name)
    return root


def test_the_example_of_json_lines_imports_by_the_documented_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photos(tmp_path / "photos")
    (root / "masks").mkdir()
    inside = np.zeros((480, 640), np.uint8)
    inside[100:200, 300:400] = 1
    Image.fromarray(inside).save(root / "masks" / "1-kettle.png")
    (root / "people.jsonl").write_text(example('{"image"'))
    monkeypatch.chdir(tmp_path)
    (command,) = re.findall(
        r"^maris-fast (import photos people\.jsonl .*)", DOCUMENT.read_text(), re.MULTILINE
    )
    done = maris_fast(*shlex.split(command))
    assert done.exit_code == 0, done.output
    imported = ImportedDataset(tmp_path / "datasets" / "people")
    found = {one.image: one for split in ("train", "val") for one in imported.records(split)}
    assert {split: counts.images for split, counts in imported.info.splits.items()} == {"train": 1, "val": 1}
    assert [len(found[f"kitchen/{number}.jpg"].expressions) for number in (1, 2)] == [3, 2]
    assert [target.area for target in found["kitchen/2.jpg"].targets] == [4800, 0]


def test_the_example_of_instances_imports(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos")
    (root / "kitchen.json").write_text(json.dumps(json.loads(example('{"images"'))))
    report = import_dataset(root, "kitchen.json", tmp_path / "out")
    assert report.info.splits == {"train": SplitCounts(refs=1, sentences=2, images=1)}
