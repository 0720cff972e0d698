"""CRIS' LMDB files, with entries in both encodings that its code has written.

``cris_train.lmdb`` was written by CRIS' code and pyarrow 11, the last that could; since then CRIS pickles.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.errors import InputError

FILE = Path(__file__).with_name("cris_train.lmdb")
FIRST, SECOND = "COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg"
HEIGHTS_WIDTHS = {FIRST: (48, 64), SECOND: (64, 40)}
BOXES: dict[tuple[str, ...], tuple[str, str, list[slice]]] = {
    ("the man on the left", "man in red"): (FIRST, "person", [slice(4, 20), slice(6, 30)]),
    ("dog",): (FIRST, "dog", [slice(10, 40), slice(34, 60)]),
    ("tallest one",): (SECOND, "giraffe", [slice(0, 64), slice(0, 12)]),
}
"""The image, category and pixels of each ref, by its sentences."""

CATEGORIES = {"person": 0, "dog": 16, "giraffe": 23}

Entries = dict[bytes, bytes]


def saved(picture: Image.Image, form: str) -> bytes:
    file = BytesIO()
    picture.save(file, form)
    return file.getvalue()


def pickled(entries: Entries) -> None:
    """Replace the entries by those of tools/folder2lmdb.py since February 2024."""
    entries.clear()
    for number, (said, (image, category, box)) in enumerate(BOXES.items()):
        height, width = HEIGHTS_WIDTHS[image]
        inside = np.zeros((height, width), np.uint8)
        inside[tuple(box)] = 255
        ref = {
            "img": saved(Image.new("RGB", (width, height)), "JPEG"),
            "mask": saved(Image.fromarray(inside), "PNG"),
            "cat": CATEGORIES[category],
            "seg_id": 101 + number,
            "img_name": image,
            "num_sents": len(said),
            "sents": [*said],
        }
        entries[str(number).encode("ascii")] = pickle.dumps(ref, protocol=5)
    entries[b"__len__"] = pickle.dumps(len(BOXES), protocol=5)
    entries[b"__keys__"] = pickle.dumps([*entries][: len(BOXES)], protocol=5)


@pytest.fixture(params=["pyarrow.serialize", "pickle"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    (tmp_path / "lmdb" / "refcoco").mkdir(parents=True)
    shutil.copy(FILE, tmp_path / "lmdb" / "refcoco" / "train.lmdb")
    if request.param == "pickle":
        change(tmp_path, pickled)
    return tmp_path


def change(root: Path, work: Callable[[Entries], Any]) -> None:
    """Rewrite the file with its entries changed by ``work``."""
    path = root / "lmdb" / "refcoco" / "train.lmdb"
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as there, there.begin() as reading:
        entries = dict(reading.cursor())
    work(entries)
    path.unlink()
    opened = lmdb.open(str(path), subdir=False, map_size=1 << 20, lock=False)
    with opened as new, new.begin(write=True) as writing:
        for key, value in entries.items():
            writing.put(key, value)


def imported(root: Path, dataset: str = "lmdb/refcoco", **options: Any) -> ImportedDataset:
    shutil.rmtree(root / "out", ignore_errors=True)
    import_dataset(root, dataset, root / "out", ImportOptions(**options))
    return ImportedDataset(root / "out")


def test_refs_masks_and_sentences_are_those_in_the_file_and_images_are_written_out(root: Path) -> None:
    there = imported(root)
    found = {}
    for record in there.records("train"):
        assert (record.height, record.width) == HEIGHTS_WIDTHS[record.image]
        for number, target in enumerate(record.targets):
            said = tuple(one.text for one in record.expressions if one.target == number)
            found[said] = record.image, target.category, target.mask.decode()
    assert found.keys() == BOXES.keys()
    for said, (image, category, box) in BOXES.items():
        inside = np.zeros(HEIGHTS_WIDTHS[image], np.bool_)
        inside[tuple(box)] = True
        assert found[said][:2] == (image, category)
        np.testing.assert_array_equal(found[said][2], inside)
    assert (there.info.name, there.info.split_by) == ("refcoco", "unc")
    assert Path(there.info.image_root) == root / "out" / "images"
    assert {path.name for path in (root / "out" / "images").iterdir()} == {FIRST, SECOND}


@pytest.mark.parametrize("dataset", ["lmdb/refcoco/train.lmdb", "lmdb/refcoco/{split}.lmdb"])
def test_a_file_is_as_good_as_its_folder(root: Path, dataset: str) -> None:
    assert [*imported(root, dataset).records("train")] == [*imported(root).records("train")]


def test_cocos_own_images_are_taken_where_they_are(root: Path) -> None:
    own = root / "images" / "train2014"
    own.mkdir(parents=True)
    for name, (height, width) in HEIGHTS_WIDTHS.items():
        Image.new("RGB", (width, height)).save(own / name)
    there = imported(root)
    assert Path(there.info.image_root) == own
    assert not (root / "out" / "images").exists()
    assert there.info.splits["train"].sentences == 4


def cut(root: Path) -> None:
    (root / "lmdb" / "refcoco" / "train.lmdb").write_bytes(FILE.read_bytes()[:-8000])


def no_lmdb(root: Path) -> None:
    (root / "lmdb" / "refcoco" / "train.lmdb").write_bytes(b"[]" * 5000)


def other_lmdb(root: Path) -> None:
    change(root, lambda entries: entries.pop(b"__keys__"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut, r"train\.lmdb is cut: it has 16,576 bytes and needs 24,576; copy it again"),
        (no_lmdb, r"train\.lmdb is not an LMDB file"),
        (other_lmdb, r"train\.lmdb is not CRIS': it has no list of entries under __keys__"),
    ],
)
def test_a_damaged_file_is_named(root: Path, damage: Callable[[Path], None], told: str) -> None:
    damage(root)
    with pytest.raises(InputError, match=told):
        imported(root)
    assert not (root / "out").exists()


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda entries: entries.pop(b"2"), r"no entry b'2'"),
        (
            lambda entries: entries.update({b"2": b"something else"}),
            r"neither a pickle nor in the encoding of pyarrow",
        ),
        (lambda entries: entries.update({b"2": entries[b"2"][:700]}), r"its encoding is damaged"),
        (
            lambda entries: entries.update({b"2": entries[b"2"].replace(b"\x89PNG", b"\x89PNX")}),
            r"the mask of segment 103 cannot be read",
        ),
    ],
)
def test_a_bad_entry_is_reported_and_can_be_left_out(
    root: Path, work: Callable[[Entries], Any], told: str
) -> None:
    change(root, work)
    with pytest.raises(InputError, match=told) as refused:
        imported(root)
    assert "row 2" in str(refused.value)
    there = imported(root, leave_out_bad=True)
    assert there.info.splits["train"].sentences == 3


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("key", [b"2", b"__keys__"])
def test_an_entry_that_runs_code_is_refused_unexecuted(
    root: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    change(root, lambda entries: entries.update({key: pickle.dumps([Attack()], protocol=5)}))
    told = rf"train\.lmdb, entry {key!r} names posix\.mkdir: .*Nothing was executed"
    with pytest.raises(InputError, match=told):
        imported(root, leave_out_bad=True)
    assert not (root / "executed").exists()


def test_without_the_extra_the_error_names_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(InputError, match=r"lmdb is not installed; run: pip install 'maris-fast\[lmdb\]'"):
        imported(root)
