"""``import --hold-out``: a validation split, by image, for data without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import DatasetInfo, ImportedDataset
from maris_fast.errors import ArgumentError, InputError
from tests.command_line import maris_fast
from tests.data.builders import SQUARE, Photos, TinyDataset

IMAGES = 20


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Two lines per image, the first with two sentences."""
    photos = Photos(tmp_path)
    photos.lines = []
    for number in range(IMAGES):
        name = f"{number}.png"
        (photos.root / name).write_bytes((photos.root / "2.png").read_bytes())
        photos.lines += [{"image": name, "sentences": ["cup", "mug"], "mask": [SQUARE]}]
        photos.lines += [{"image": name, "sentence": "the other cup", "mask": None}]
    photos.write()
    return photos


def imported(photos: Any, out: str, dataset: str = "people.jsonl", **options: Any) -> DatasetInfo:
    return import_dataset(photos.root, dataset, photos.out.parent / out, ImportOptions(**options)).info


def images(photos: Photos, out: str, split: str) -> set[str]:
    return {record.image for record in ImportedDataset(photos.out.parent / out).records(split)}


def test_a_share_of_the_images_is_val_with_all_their_sentences_by_path_and_seed(photos: Photos) -> None:
    info = imported(photos, "a", hold_out=0.25)
    assert {split: (counts.images, counts.sentences) for split, counts in info.splits.items()} == {
        "train": (15, 45),
        "val": (5, 15),
    }
    held = images(photos, "a", "val")
    assert not held & images(photos, "a", "train")
    photos.lines.reverse()
    photos.write()
    imported(photos, "b", hold_out=0.25)
    imported(photos, "c", hold_out=0.25, seed=1)
    imported(photos, "d", hold_out=0.5)
    assert images(photos, "b", "val") == held
    assert images(photos, "c", "val") != held
    assert images(photos, "d", "val") > held


def test_what_is_left_out_counts_for_the_split_that_its_image_is_in(photos: Photos) -> None:
    imported(photos, "a", hold_out=0.25)
    held = images(photos, "a", "val")
    photos.lines += [{"image": f"{n}.png", "sentence": " ", "mask": [SQUARE]} for n in range(IMAGES)]
    photos.write()
    info = imported(photos, "b", hold_out=0.25, leave_out_bad=True)
    assert images(photos, "b", "val") == held
    assert {split: lost.expressions for split, lost in info.left_out.items()} == {"train": 15, "val": 5}
    assert all(lost.images == 0 for lost in info.left_out.values())


def test_one_split_of_a_data_set_that_has_several_can_be_divided(tmp_path: Path) -> None:
    made = TinyDataset(tmp_path)
    made.refs += [made.ref(14, 103, 3, "train", "also")]
    made.write()
    with pytest.raises(InputError, match="a split 'val' already; leave out `hold_out`"):
        imported(made, "a", "refcoco", hold_out=0.5)
    info = imported(made, "b", "refcoco", hold_out=0.5, splits=["train"])
    assert {split: counts.images for split, counts in info.splits.items()} == {"train": 1, "val": 1}
    made.refs = [made.ref(14, 103, 3, "test", "also")]
    made.write()
    with pytest.raises(InputError, match="no split 'train' to hold images out of"):
        imported(made, "c", "refcoco", hold_out=0.5)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 10, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ArgumentError, match="; expected a share over 0"):
        ImportOptions(hold_out=share)


def test_the_command_names_its_option_and_leaves_nothing_behind(photos: Photos) -> None:
    photos.lines = photos.lines[:2]
    photos.write()
    command = ["import", str(photos.root), "people.jsonl", "--out", str(photos.out), "--hold-out"]
    done = maris_fast(*command, "0.1")
    assert done.exit_code == 2
    assert "error: --hold-out 0.1 of 1 images leaves none to train on" in done.output
    assert not photos.out.exists()
    assert "error: --hold-out is 2.0; expected a share" in maris_fast(*command, "2").output
