"""Which importer reads the data set that a user names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.errors import ConfigError, InputError
from maris_fast.rle import Rle
from tests.data import test_import_captions as captions
from tests.data.builders import Instances, Photos
from tests.data.other_forms import Family
from tests.data.test_import_annotation_tools import labelme
from tests.data.test_import_row_forms import cris, sa2va


def test_the_format_is_known_by_what_is_there(tmp_path: Path) -> None:
    photos, coco = Photos(tmp_path / "own"), Instances(tmp_path / "coco")
    photos.write()
    assert import_dataset(photos.root, "people.jsonl", photos.out).info.name == "people"
    coco.write()
    other = coco.out.with_name("other")
    assert import_dataset(coco.root, "annotations/said.json", other).info.name == "said"
    with pytest.raises(ConfigError, match=r"`split_by` unc: people\.jsonl has only one division into splits"):
        import_dataset(photos.root, "people.jsonl", photos.out.with_name("x"), split_by="unc")
    with pytest.raises(
        InputError,
        match=r"(?s)kitchen has none of the known forms \(docs/datasets\.md\):\n  refs.*  NAME\.jsonl",
    ):
        import_dataset(photos.root, "kitchen", photos.out.with_name("x"))
    (photos.root / "rooms.json").write_text('[{"picture": "1.png", "said": "mug"}]')
    with pytest.raises(InputError, match=r"(?s)rooms\.json has none of the known forms.*  NAME\.jsonl"):
        import_dataset(photos.root, "rooms.json", photos.out.with_name("x"))
    with pytest.raises(
        InputError, match=r"(?s)photos/\{split\}s\.json has none of the known forms.*  NAME\.jsonl"
    ):
        import_dataset(photos.root, "{split}s.json", photos.out.with_name("x"))
    with pytest.raises(
        InputError, match=r"no file .*\{split\}\.csv with a split's name in place of \{split\}"
    ):
        import_dataset(photos.root, "{split}.csv", photos.out.with_name("x"))
    with pytest.raises(InputError, match=r"no folder .*cellar; data sets below .*: none"):
        import_dataset(photos.root, "cellar", photos.out.with_name("x"))
    with pytest.raises(InputError, match=r"no file .*attic\.jsonl"):
        import_dataset(photos.root, "attic.jsonl", photos.out.with_name("x"))


def test_split_by_is_asked_for_where_there_is_a_choice(refmini: Path, tmp_path: Path) -> None:
    assert import_dataset(refmini, "refcoco", tmp_path / "only").info.split_by == "unc"
    (tmp_path / "data" / "refcocog").mkdir(parents=True)
    for split_by in ("umd", "google"):
        (tmp_path / "data" / "refcocog" / f"refs({split_by}).p").touch()
    with pytest.raises(
        InputError, match=r"several divisions into splits; choose one of `split_by` google, umd"
    ):
        import_dataset(tmp_path / "data", "refcocog", tmp_path / "out")


def captioned(made: Family) -> str:
    for split in made.splits:
        captions.write(made, split, captions.converted(made, split))
    return "instances_refcoco_{split}.json"


BEFORE_TRAIN: dict[str, tuple[Callable[[Family], str], str]] = {
    "captions": (captioned, "instances_refcoco_test.json"),
    "cris": (cris, "anns/refcoco/test.json"),
    "sa2va": (sa2va, "mine/annotations_test.json"),
}
"""Writes the data set, and the name of a file that sorts before those of its splits."""
NO_ROWS: dict[str, Any] = {"captions": {"images": [], "annotations": [], "categories": []}}


@pytest.mark.parametrize("form", BEFORE_TRAIN)
def test_a_form_is_known_by_the_first_file_that_has_rows(small: Family, form: str) -> None:
    """CRIS' folder of G-Ref by google has a test.json without rows."""
    write, name = BEFORE_TRAIN[form]
    dataset = write(small)
    (small.root / name).write_text(json.dumps(NO_ROWS.get(form, [])))
    assert list(small.imported(dataset).splits) == ["train", "val"]


@pytest.mark.parametrize("form", BEFORE_TRAIN)
def test_a_first_file_that_cannot_be_read_is_named(small: Family, form: str) -> None:
    write, name = BEFORE_TRAIN[form]
    dataset = write(small)
    (small.root / name).write_text("[")
    with pytest.raises(InputError, match=rf"{Path(name).name} is not .*JSON"):
        small.imported(dataset)


def test_a_first_labelme_file_that_cannot_be_read_is_named(small: Family) -> None:
    dataset, _ = labelme(small)
    (small.root / "photos" / "train" / "0.json").write_text("[")
    with pytest.raises(InputError, match=r"train/0\.json row 0: it is not JSON"):
        small.imported(dataset)


def test_predictions_are_known_by_the_first_line_that_is_not_blank(tmp_path: Path) -> None:
    photos = Photos(tmp_path)
    line = {"image": "2.png", "sentence": "a cup", "prediction": Rle.encode(photos.pixels != 0).model_dump()}
    (photos.root / "found_test.jsonl").write_text("\n")
    (photos.root / "found_val.jsonl").write_text(f"\n{json.dumps(line)}\n")
    assert list(import_dataset(photos.root, "found_{split}.jsonl", photos.out).info.splits) == ["val"]
