"""Test images in a train split that were renamed or re-encoded by tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maris_fast.data_shards.importers.coco_images import coco_id_of, cocos_own_file, flickr_id_of
from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.looks import LOOK_ALIKE, look_of, looks_of, twins
from maris_fast.data_shards.mixing import mix_datasets
from maris_fast.data_shards.records import ImageRecord, ImportedDataset
from maris_fast.errors import InputError
from maris_fast.images import load_image
from tests.command_line import maris_fast
from tests.data.test_mixing import dataset, record
from tests.faults import small_disk

NUMBER = 391895


@pytest.mark.parametrize(
    "name",
    [
        "COCO_train2014_000000391895.jpg",
        "COCO_val2014_000000391895.jpg",
        "COCO_train2014_000000391895_101.jpg",  # refer's own file_name
        "COCO_train2014_000000391895_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg",  # Roboflow
        "000000391895_jpg.rf.0a1b2c3d4e5f60718293a4b5c6d7e8f9.jpg",
        "1a2b3c4d-COCO_train2014_000000391895.jpg",  # Label Studio
        "1a2b3c4d-000000391895.jpg",
        "COCO_train2014_000000391895.png",
        "000000391895.webp",
        "000000391895.JPG",
        "000000391895 (1).jpg",
        "train/images/000000391895.jpeg",
        "images\\000000391895.jpg",
        "http://images.cocodataset.org/train2017/000000391895.jpg",
    ],
)
def test_a_tools_name_tells_the_number_in_coco(name: str) -> None:
    assert coco_id_of(name) == NUMBER


@pytest.mark.parametrize(
    "name", ["391895.jpg", "000391895.jpg", "123456391895.jpg", "0000003918951.jpg", "x.jpg"]
)
def test_other_numbers_are_not_cocos(name: str) -> None:
    assert coco_id_of(name) is None
    assert flickr_id_of(name) is None


def test_only_a_file_with_cocos_whole_name_is_cocos_own() -> None:
    assert cocos_own_file("COCO_train2014_000000391895.jpg") == cocos_own_file("000000391895.jpg") == NUMBER
    for name in ("000000391895.png", "COCO_train2014_000000391895_7.jpg", "000000391895_jpg.rf.aa.jpg"):
        assert cocos_own_file(name) is None


def test_flickrs_number_is_in_its_addresses_and_in_names_of_saved_files() -> None:
    for name in (
        "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
        "https://live.staticflickr.com/8186/8119368305_4e622c8349_b.jpg?zz=1",
        "8119368305_4e622c8349_z.jpg",
        "8119368305_4e622c8349_z.png",
    ):
        assert flickr_id_of(name) == 8119368305, name
    assert flickr_id_of(None, 5, "x.jpg") is None


def mixed_up(tmp_path: Path, train: ImageRecord, test: ImageRecord) -> str:
    """The error of mixing a train image with a data set that has it in a test split."""
    one = dataset(tmp_path, "own", "own", images="photos", coco_annotations=False, train=[train])
    two = dataset(tmp_path, "refcoco", train=[record(77)], testA=[test])
    with pytest.raises(InputError) as caught:
        mix_datasets([one, two], tmp_path / "mix")
    assert not (tmp_path / "mix").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["COCO_train2014_000000000009_101.jpg", "000000000009_jpg.rf.ab12.jpg", "1a2b3c4d-000000000009.png"],
)
def test_a_renamed_test_image_is_refused_though_its_import_did_not_know_it(tmp_path: Path, name: str) -> None:
    train = record(1, image=name)
    assert train.coco_id is None
    said = mixed_up(tmp_path, train, record(9))
    assert "own (own) train: 1 images with 2 sentences are in refcoco (unc) testA" in said
    assert name in said


def test_a_photograph_of_flickr_is_known_by_its_number_there(tmp_path: Path) -> None:
    train = record(1, image="8119368305_4e622c8349_b.png")
    test = record(9).model_copy(update={"flickr_id": 8119368305})
    assert "are in refcoco (unc) testA" in mixed_up(tmp_path, train, test)


def test_cocos_address_in_an_annotation_file_tells_the_number(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 10), "white").save(tmp_path / "photos" / "a.png")
    image = {
        "id": 1,
        "file_name": "photos/a.png",
        "width": 20,
        "height": 10,
        "coco_url": "http://images.cocodataset.org/train2017/000000391895.jpg",
        "flickr_url": "http://farm9.staticflickr.com/8186/8119368305_4e622c8349_z.jpg",
    }
    polygon = [[2, 2, 9, 2, 9, 8, 2, 8]]
    annotation = {"id": 7, "image_id": 1, "category_id": 1, "segmentation": polygon, "caption": "the box"}
    said = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "own.json").write_text(json.dumps(said))
    import_dataset(tmp_path, "own.json", tmp_path / "out")
    (found,) = ImportedDataset(tmp_path / "out").records("train")
    assert (found.coco_id, found.flickr_id) == (NUMBER, 8119368305)


# Real photographs.


def photo(image: str, size: tuple[int, int], image_id: int = 1) -> ImageRecord:
    return record(image_id, image=image, size=size)


def as_png(source: Path, to: Path) -> None:
    Image.open(source).save(to, "PNG")


def as_jpeg(source: Path, to: Path) -> None:
    Image.open(source).save(to, "JPEG", quality=40)


def at_half(source: Path, to: Path) -> None:
    picture = Image.open(source)
    picture.resize((picture.width // 2, picture.height // 2)).save(to, "JPEG", quality=75)


def turned(source: Path, to: Path) -> None:
    """Save it rotated by 90 degrees, with an EXIF orientation that undoes the rotation."""
    picture = Image.open(source).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(to, "PNG", exif=exif)


@pytest.fixture
def real(refmini: Path) -> list[Path]:
    """The first 128 photographs of COCO's train2017."""
    folder = refmini.parent / "coco128" / "train2017"
    if not folder.is_dir():
        pytest.skip(f"no real photographs at {folder}")
    return sorted(folder.glob("*.jpg"))


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        (as_png, "are copies, pixel by pixel, of images in"),
        (turned, "are copies, pixel by pixel, of images in"),
        (as_jpeg, "look like images in"),
        (at_half, "look like images in"),
    ],
)
def test_a_copy_under_another_name_is_met_by_what_it_shows(
    tmp_path: Path, real: list[Path], copied: Callable[[Path, Path], None], said: str
) -> None:
    for folder in ("photos", "coco/train2014"):
        (tmp_path / folder).mkdir(parents=True)
    for place, name in enumerate(("a", "b", "c")):
        shutil.copy(real[place], tmp_path / "photos" / f"{name}.jpg")
    copied(real[3], tmp_path / "photos" / "d.img")
    shutil.copy(real[3], tmp_path / "coco" / "train2014" / "COCO_train2014_000000000009.jpg")
    shutil.copy(real[4], tmp_path / "coco" / "train2014" / "COCO_train2014_000000000077.jpg")
    records = [photo(f"{name}.jpg", (8, 10), number) for number, name in enumerate("abc", start=1)]
    one = dataset(
        tmp_path,
        "own",
        "own",
        images="photos",
        coco_annotations=False,
        train=[*records, photo("d.img", (8, 10), 4)],
    )
    two = dataset(tmp_path, "refcoco", train=[record(77)], testA=[record(9)])
    with pytest.raises(InputError) as caught:
        mix_datasets([one, two], tmp_path / "mix")
    assert f"own (own) train: 1 images with 2 sentences {said} refcoco (unc) testA (such as d.img)" in str(
        caught.value
    )
    looked: list[tuple[int, int]] = []
    report = mix_datasets(
        [one, two], tmp_path / "mix", remove_leaks=True, looking=lambda *counts: looked.append(counts)
    )
    assert {Path(one.image).name for one in ImportedDataset(tmp_path / "mix").records("train")} == {
        "a.jpg", "b.jpg", "c.jpg", "COCO_train2014_000000000077.jpg",
    }  # fmt: skip
    assert looked == [(done, 6) for done in range(1, 7)]
    assert (report.summary.by_content, report.summary.not_looked_at) == (5, 0)
    # If only names are compared, the copy is not found.
    assert mix_datasets([one, two], tmp_path / "by_name", compare_content=False).summary.leaks == ()


def test_suspected_pairs_can_be_looked_at_and_kept(tmp_path: Path, real: list[Path]) -> None:
    for folder in ("photos", "coco/train2014"):
        (tmp_path / folder).mkdir(parents=True)
    as_jpeg(real[0], tmp_path / "photos" / "a.jpg")
    shutil.copy(real[1], tmp_path / "photos" / "b.jpg")
    shutil.copy(real[0], tmp_path / "coco" / "train2014" / "COCO_train2014_000000000009.jpg")
    (tmp_path / "coco" / "train2014" / "COCO_train2014_000000000077.jpg").write_bytes(b"torn")
    records = [photo("a.jpg", (8, 10)), photo("b.jpg", (8, 10), 2)]
    one = dataset(tmp_path, "own", "own", images="photos", coco_annotations=False, train=records)
    two = dataset(tmp_path, "refcoco", train=[record(77)], testA=[record(9)])
    typed = ["mix", str(one), str(two), "--out", str(tmp_path / "mix"), "--pairs", str(tmp_path / "p.png")]
    refused = maris_fast(*typed)
    assert refused.exit_code == 2
    said = " ".join((refused.output + refused.stderr).split())
    assert f"suspected only: look at {tmp_path / 'p.png'}" in said
    assert "--keep-look-alikes" in said
    with Image.open(tmp_path / "p.png") as sheet:
        left, right = sheet.crop((8, 8, 248, 188)), sheet.crop((256, 8, 496, 188))
    # The two are shown side by side, and no other images.
    assert np.count_nonzero(look_of(left).bits != look_of(right).bits) <= LOOK_ALIKE
    assert np.count_nonzero(look_of(left).bits != look_of(load_image(real[0])).bits) <= LOOK_ALIKE
    with small_disk(tmp_path / "full", "4k") as full:
        nowhere = maris_fast(*typed[:-1], str(full / "p.png"))
        assert (
            f"error: {full / 'p.png'} cannot be written: [Errno 28] No space left on device" in nowhere.output
        )
    kept = maris_fast(*typed, "--keep-look-alikes")
    assert kept.exit_code == 0, kept.output
    said = " ".join(kept.output.split())
    assert "kept: 1 images" in said
    assert "1 pairs look alike: look at" in said
    assert "the content of 1 images could not be compared, the first:" in said
    (pair,) = json.loads((tmp_path / "mix" / "mix.json").read_text())["look_alikes"]
    assert Path(pair["train_image"]).name == "a.jpg"
    assert Path(pair["held_out_image"]).name == "COCO_train2014_000000000009.jpg"
    assert 0 <= pair["distance"] <= LOOK_ALIKE
    # Only lossless copies are certain to differ in no bit.
    if pair["distance"]:
        assert mix_datasets([one, two], tmp_path / "strict", look_alike=0).summary.leaks == ()


def test_an_interrupted_look_leaves_nothing_behind(tmp_path: Path, real: list[Path]) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(real[0], tmp_path / "photos" / "a.jpg")
    one = dataset(
        tmp_path, "own", "own", images="photos", coco_annotations=False, train=[photo("a.jpg", (8, 10))]
    )
    two = dataset(tmp_path, "refcoco", train=[record(77)], testA=[record(9)])

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        mix_datasets([one, two], tmp_path / "out" / "mix", looking=interrupt)
    assert not list((tmp_path / "out").iterdir())


def test_no_two_of_128_photographs_look_alike(real: list[Path]) -> None:
    assert len(real) == 128
    seen, unseen = looks_of(real)
    assert not unseen
    nearest = [one.distance for found in twins(seen, seen, 256).values() for one in found]
    # Re-encoded and resized copies of these differ in at most 10 bits: docs/datasets.md.
    assert min(nearest) > 90
    assert twins(seen, seen) == {}


def test_an_import_says_that_two_splits_share_photographs(tmp_path: Path, real: list[Path]) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
    lines = []

    def put(split: str, name: str, copied: Callable[[Path, Path], object], source: Path) -> None:
        copied(source, tmp_path / split / name)
        mask = [[5, 5, 50, 5, 50, 50, 5, 50]]
        lines.append({"image": f"{split}/{name}", "split": split, "sentence": "it", "mask": mask})

    put("train", "a.jpg", shutil.copy, real[0])
    put("val", "b.png", as_png, real[0])
    put("train", "c.jpg", shutil.copy, real[1])
    put("val", "d.jpg", at_half, real[1])
    put("train", "000000000030_jpg.rf.ab.jpg", shutil.copy, real[2])
    put("val", "COCO_train2014_000000000030.jpg", as_jpeg, real[2])
    put("train", "e.jpg", shutil.copy, real[3])
    put("val", "f.jpg", shutil.copy, real[4])
    lines.append({**lines[6], "split": "val"})  # the same file in both splits
    (tmp_path / "own.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    report = import_dataset(tmp_path, "own.jsonl", tmp_path / "out")
    assert [(one.by, one.images, one.example) for one in report.info.shared] == [
        ("name", 2, ("train/000000000030_jpg.rf.ab.jpg", "val/COCO_train2014_000000000030.jpg")),
        ("pixels", 1, ("train/a.jpg", "val/b.png")),
        ("looks", 1, ("train/c.jpg", "val/d.jpg")),
    ]
    said = maris_fast("import", str(tmp_path), "own.jsonl", "--out", str(tmp_path / "again"))
    assert said.exit_code == 0, said.output
    text = " ".join(said.output.split())
    assert "warning: 2 photographs of train are in val (such as train/000000000030_jpg.rf.ab.jpg and" in text
    assert "warning: 1 photographs of train look like some in val (such as train/c.jpg and val/d.jpg)" in text
    # Without the image check, only names are compared.
    quick = import_dataset(tmp_path, "own.jsonl", tmp_path / "quick", ImportOptions(check_images=False))
    assert [one.by for one in quick.info.shared] == ["name"]
    # A single split shares nothing, and its head has no such entry.
    import_dataset(tmp_path, "own.jsonl", tmp_path / "val_only", ImportOptions(splits=("val",)))
    assert "shared" not in json.loads((tmp_path / "val_only" / "dataset.json").read_text())
