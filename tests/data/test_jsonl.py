"""Users' own data as JSON lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.text_encoding import read_utf8, utf8_lines
from maris_fast.data_shards.records import ImportedDataset, SplitCounts
from maris_fast.errors import InputError
from tests.data.builders import HEIGHT, SQUARE, STRIPE, WIDTH, Photos


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    return Photos(tmp_path)


def test_lines_become_one_record_an_image_and_split(photos: Photos) -> None:
    report = photos.imported()
    assert report.info.splits == {
        "train": SplitCounts(refs=2, sentences=4, images=1),
        "val": SplitCounts(refs=3, sentences=4, images=1),
    }
    assert (report.info.name, report.info.split_by) == ("people", "own")
    train = photos.record("train")
    assert (train.image, train.height, train.width, train.coco_id) == ("kitchen/1.jpg", HEIGHT, WIDTH, None)
    said = [(e.text, e.target) for e in train.expressions]
    assert said == [("the red mug", 0), ("cup", 1), ("left cup", 1), ("mug", 0)]
    assert [target.category for target in train.targets] == ["mug", ""]
    assert [e.kind for e in photos.record("val").expressions] == ["shape", None, None, None]


def test_polygons_run_lengths_and_png_say_the_same_pixels(photos: Photos) -> None:
    photos.imported()
    mug, cup = photos.record("train").targets
    stripe, same_cup, nothing = photos.record("val").targets
    assert mug.area == 100
    np.testing.assert_array_equal(cup.mask.decode(), photos.pixels // 255)
    assert same_cup.mask == cup.mask
    assert stripe.mask.decode()[:, 1:3].all()
    assert stripe.area == 80
    assert (nothing.ann_ids, nothing.area) == ((), 0)


def test_sentences_on_other_lines_about_the_same_mask_mean_the_same_object(photos: Photos) -> None:
    photos.imported()
    train = photos.record("train")
    assert len({target.ann_ids for target in train.targets}) == len(train.targets) == 2


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16"])
def test_a_mask_may_be_any_png_of_one_channel(photos: Photos, mode: str) -> None:
    inside = photos.pixels > 0
    picture = Image.fromarray(inside.astype(np.uint16) if mode == "I;16" else inside)
    picture = picture if mode in ("1", "I;16") else Image.fromarray(inside.astype(np.uint8), mode)
    if mode == "P":
        picture.putpalette([0, 0, 0, 128, 0, 0])
    picture.save(photos.root / "cup.png")
    photos.imported()
    np.testing.assert_array_equal(photos.record("train").targets[1].mask.decode(), inside)


def test_one_file_a_split_is_named_by_a_placeholder(photos: Photos) -> None:
    photos.lines = photos.lines[:2]
    photos.write("rooms-train.jsonl")
    photos.write("rooms-test.jsonl")
    report = import_dataset(photos.root, "rooms-{split}.jsonl", photos.out)
    assert list(report.info.splits) == ["train", "test"]
    assert report.info.name == "rooms"
    with pytest.raises(InputError, match=r"no file .*halls-\{split\}\.jsonl with a split's name"):
        import_dataset(photos.root, "halls-{split}.jsonl", photos.out.with_name("again"))


@pytest.mark.parametrize("named_by", ["line", "file"])
def test_images_of_each_split_may_lie_in_a_folder_of_their_own(photos: Photos, named_by: str) -> None:
    for split, image in (("train", "kitchen/1.jpg"), ("val", "2.png")):
        place = photos.root / "pictures" / split / image
        place.parent.mkdir(parents=True)
        (photos.root / image).rename(place)
    dataset = "people.jsonl"
    photos.write(dataset)
    if named_by == "file":
        dataset, every = "people-{split}.jsonl", photos.lines
        for split in ("train", "val"):
            own = [line for line in every if line.get("split", "train") == split]
            photos.lines = [{key: line[key] for key in line if key != "split"} for line in own]
            photos.write(f"people-{split}.jsonl")
    options = ImportOptions(images=Path("pictures/{split}"))
    info = import_dataset(photos.root, dataset, photos.out, options).info
    assert info.image_root == str(photos.root / "pictures")
    assert photos.record("train").image == "train/kitchen/1.jpg"
    assert photos.record("val").image == "val/2.png"


def test_images_may_lie_elsewhere_and_blank_lines_are_nothing(photos: Photos) -> None:
    photos.lines = ["", {"image": "1.jpg", "sentence": "mug", "mask": "cup.png"}]
    report = photos.imported(images=Path("kitchen"))
    assert Path(report.info.image_root) == photos.root / "kitchen"
    assert report.info.splits["train"].sentences == 1


def test_cocos_images_are_known_by_their_names(photos: Photos) -> None:
    for name in ("COCO_train2014_000000000009.jpg", "000000581929.jpg", "999999999999.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(photos.root / name)
        photos.lines.append({"image": name, "sentence": "x", "mask": [SQUARE], "split": "test"})
    photos.imported(splits=["test"])
    records = ImportedDataset(photos.out).records("test")
    assert [record.coco_id for record in records] == [9, 581929, None]


def test_raw_pixels_of_a_turned_photo_are_used_when_the_line_gives_their_size(photos: Photos) -> None:
    turned(photos)
    photos.lines[0].update(width=WIDTH, height=HEIGHT)
    photos.imported()
    assert photos.record("train").width == WIDTH


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.tuples(
            st.sampled_from(["kitchen/1.jpg", "2.png"]),
            st.sampled_from(["train", "val"]),
            st.integers(0, 3),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_ids_stay_apart_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[str, str, int, int]]
) -> None:
    photos = Photos(tmp_path_factory.mktemp("own"))
    photos.lines = [
        {
            "image": image,
            "split": split,
            "sentences": [f"{number} {i}" for i in range(sentences)],
            "mask": [[where, 1, where + 5, 1, where + 5, 9]] if where else None,
        }
        for number, (image, split, where, sentences) in enumerate(lines)
    ]
    report = photos.imported()
    dataset = ImportedDataset(photos.out)
    records = [record for split in report.info.splits for record in dataset.records(split)]
    sentences = [e.sent_id for record in records for e in record.expressions]
    refs = [target.ref_id for record in records for target in record.targets]
    assert len(set(sentences)) == len(sentences) == sum(number for *_, number in lines)
    assert len(set(refs)) == len(refs) == len({line[:3] for line in lines})
    assert len({(record.image_id, record.image) for record in records}) == len({line[0] for line in lines})
    for record in records:
        for expression in record.expressions:
            _, _, where, _ = lines[int(expression.text.split()[0])]
            assert bool(record.targets[expression.target].area) == bool(where)


# Malformed JSON lines


def not_json(photos: Photos) -> None:
    photos.lines[1] = '{"image": "kitchen/1.jpg", '


def a_list(photos: Photos) -> None:
    photos.lines[1] = "[1, 2]"


def misspelt_key(photos: Photos) -> None:
    photos.lines[1]["sentense"] = photos.lines[1].pop("sentences")


def neither_sentence(photos: Photos) -> None:
    del photos.lines[0]["sentence"]


def both_sentence_and_sentences(photos: Photos) -> None:
    photos.lines[0]["sentences"] = ["x"]


def empty_sentence(photos: Photos) -> None:
    photos.lines[1]["sentences"] = ["cup", " "]


def forgotten_mask(photos: Photos) -> None:
    del photos.lines[0]["mask"]


def no_polygon(photos: Photos) -> None:
    photos.lines[0]["mask"] = []


def polygon_as_corners(photos: Photos) -> None:
    photos.lines[0]["mask"] = [[[1, 1], [2, 2], [3, 3], [4, 4], [5, 5], [6, 6]]]


def polygon_without_number(photos: Photos) -> None:
    photos.lines[0]["mask"] = [[float("nan"), 1, 5, 1, 5, 5]]


def polygon_far_away(photos: Photos) -> None:
    photos.lines[0]["mask"] = [[1e300, 1, 5, 1, 5, 5]]


def polygon_off_the_image(photos: Photos) -> None:
    photos.lines[0]["mask"] = [[90, 10, 99, 10, 99, 20]]


def run_lengths_of_another_size(photos: Photos) -> None:
    photos.lines[2]["mask"] = {**STRIPE, "size": [WIDTH, HEIGHT]}


def mask_that_is_a_number(photos: Photos) -> None:
    photos.lines[0]["mask"] = 7


def mask_file_missing(photos: Photos) -> None:
    (photos.root / "cup.png").unlink()


def mask_file_of_another_size(photos: Photos) -> None:
    Image.new("L", (HEIGHT, WIDTH), 255).save(photos.root / "cup.png")


def mask_file_in_colour(photos: Photos) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(photos.root / "cup.png")


def mask_file_that_is_a_jpeg(photos: Photos) -> None:
    Image.new("L", (WIDTH, HEIGHT), 255).save(photos.root / "cup.png", "JPEG")


def mask_file_all_black(photos: Photos) -> None:
    Image.new("L", (WIDTH, HEIGHT)).save(photos.root / "cup.png")


def mask_file_cut(photos: Photos) -> None:
    os.truncate(photos.root / "cup.png", 60)


def image_missing(photos: Photos) -> None:
    (photos.root / "2.png").unlink()


def image_cut(photos: Photos) -> None:
    path = photos.root / "kitchen" / "1.jpg"
    os.truncate(path, path.stat().st_size // 2)


def image_that_is_text(photos: Photos) -> None:
    (photos.root / "2.png").write_text("no image")


def image_outside(photos: Photos) -> None:
    photos.lines[0]["image"] = "../photos/2.png"


def image_of_another_size(photos: Photos) -> None:
    photos.lines[0]["width"] = 61


def turned(photos: Photos, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (WIDTH, HEIGHT)).save(photos.root / "kitchen" / "1.jpg", exif=exif)


def turned_in_place(photos: Photos) -> None:
    turned(photos, 3)


def split_that_is_a_path(photos: Photos) -> None:
    photos.lines[0]["split"] = "../val"


def key_twice(photos: Photos) -> None:
    photos.lines[0] = '{"image": "2.png", "sentence": "a", "mask": null, "sentence": "b"}'


def key_twice_within(photos: Photos) -> None:
    photos.lines[0] = '{"image": "2.png", "sentence": "a", "mask": {"size": [1, 1], "size": [40, 60]}}'


def nested_deep(photos: Photos) -> None:
    photos.lines[0] = "[" * 100_000


def no_object(photos: Photos) -> None:
    photos.lines[3]["objects"] = []


def no_lines(photos: Photos) -> None:
    photos.lines = [""]


AS_DOCUMENTED = r"not as docs/datasets\.md says \(1\).*"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_json, AS_DOCUMENTED + r"people\.jsonl:2: "),
        (a_list, AS_DOCUMENTED + r"people\.jsonl:2: .*dict"),
        (misspelt_key, AS_DOCUMENTED + r"people\.jsonl:2: sentense: Extra"),
        (neither_sentence, AS_DOCUMENTED + r"people\.jsonl:1: .*expected `sentence`"),
        (both_sentence_and_sentences, AS_DOCUMENTED + r"people\.jsonl:1: .*not both"),
        (empty_sentence, r"empty sentences.* \(1\).*people\.jsonl:2"),
        (forgotten_mask, AS_DOCUMENTED + r"people\.jsonl:1: mask: Field required"),
        (no_polygon, r"usable mask.*people\.jsonl:1: it has no polygon"),
        (polygon_as_corners, r"usable mask.*people\.jsonl:1: .*\[1, 1\].*one list of numbers"),
        (polygon_without_number, r"usable mask.*people\.jsonl:1: .*a corner at nan"),
        (polygon_far_away, r"usable mask.*people\.jsonl:1: .*a corner at 1e\+300"),
        (polygon_off_the_image, r"usable mask.*people\.jsonl:1: its mask has no pixel"),
        (run_lengths_of_another_size, r"usable mask.*people\.jsonl:3: its run lengths are for size"),
        (mask_that_is_a_number, r"usable mask.*people\.jsonl:1: it has neither polygons"),
        (mask_file_missing, r"usable mask.*people\.jsonl:2: no image .*cup\.png"),
        (mask_file_of_another_size, r"usable mask.*people\.jsonl:2: .*is 40 x 60, its image 60 x 40"),
        (mask_file_in_colour, r"usable mask.*people\.jsonl:2: .*channels R, G, B"),
        (mask_file_that_is_a_jpeg, r"usable mask.*people\.jsonl:2: .*is JPEG; a mask is saved as PNG"),
        (mask_file_all_black, r"usable mask.*people\.jsonl:2: .*has no pixel.*the mask null"),
        (mask_file_cut, r"usable mask.*people\.jsonl:2: .*cup\.png cannot be decoded"),
        (image_missing, r"missing images \(1\).*people\.jsonl:3: .*2\.png"),
        (image_cut, r"cannot be read to their end.*kitchen/1\.jpg"),
        (image_that_is_text, r"images that cannot be read \(1\).*people\.jsonl:3: .*2\.png"),
        (image_outside, r"leave the image folder.*people\.jsonl:1: \.\./photos"),
        (image_of_another_size, r"another size than their line says.*people\.jsonl:1: width 61, .*has 60"),
        (turned_in_place, r"EXIF rotation.*people\.jsonl:1"),
        (split_that_is_a_path, AS_DOCUMENTED + r"people\.jsonl:1: split"),
        (key_twice, AS_DOCUMENTED + r"people\.jsonl:1: the key 'sentence' appears twice"),
        (key_twice_within, AS_DOCUMENTED + r"people\.jsonl:1: the key 'size' appears twice"),
        (nested_deep, AS_DOCUMENTED + r"people\.jsonl:1: it is nested too deep"),
        (no_object, r"images without an object.*people\.jsonl:4"),
        (no_lines, r"people\.jsonl holds no lines"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_written(
    photos: Photos, damage: Callable[[Photos], None], message: str
) -> None:
    damage(photos)
    with pytest.raises(InputError, match=f"(?s){message}"):
        photos.imported()
    assert not list(photos.out.parent.iterdir())


def test_a_line_of_another_split_than_its_file_is_refused(photos: Photos) -> None:
    photos.write("test.jsonl")
    with pytest.raises(InputError, match=r"(?s)another split than their file.*test\.jsonl:3: 'val'.*'test'"):
        import_dataset(photos.root, "{split}.jsonl", photos.out)
    assert not list(photos.out.parent.iterdir())


PARTS = ("a", "é", "\U0001f415", "\\", "ud83d", "\\ud83d", "\r", "\n", "\u2028", " ")


@given(
    text=st.lists(st.sampled_from(PARTS)).map("".join),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    cut=st.integers(0, 3),
)
def test_lines_one_by_one_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, encoding: str, cut: int
) -> None:
    file = tmp_path_factory.mktemp("lines") / "own.jsonl"
    content = text.encode(encoding)
    file.write_bytes(content[: len(content) - cut])
    assert list(utf8_lines(file)) == read_utf8(file).splitlines()
