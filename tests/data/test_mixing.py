"""Mixed training sets: what is merged, what stays separate, and that no test image gets in unnoticed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maris_fast.data_shards.mixing import mix_datasets
from maris_fast.data_shards.mixing.joining import ID_STRIDE, IMAGE_STRIDE
from maris_fast.data_shards.records import (
    DatasetInfo,
    DroppedPixels,
    Expression,
    ImageRecord,
    ImportedDataset,
    SplitCounts,
    Target,
    count,
)
from maris_fast.errors import InputError
from maris_fast.rle import Rle
from tests.data.cache_dataset import box

HEIGHT, WIDTH = 8, 10
MASK = Rle.encode(box(HEIGHT, WIDTH, 1, 1, 4, 5))


def coco_name(number: int) -> str:
    return f"COCO_train2014_{number:012d}.jpg"


def record(
    image_id: int,
    refs: Sequence[int] = (1,),
    *,
    image: str | None = None,
    coco_id: int | None = None,
    size: tuple[int, int] = (HEIGHT, WIDTH),
) -> ImageRecord:
    """An image with a ref and two sentences for each of ``refs``; ids are not unique across data sets."""
    mask = MASK if size == (HEIGHT, WIDTH) else Rle.encode(box(*size, 1, 1, 4, 5))
    targets = [Target(ref_id=ref, ann_ids=(ref,), category="thing", mask=mask, area=12) for ref in refs]
    said = [
        Expression(sent_id=10 * ref + i, target=t, text=f"ref {ref}, {i}")
        for t, ref in enumerate(refs)
        for i in range(2)
    ]
    return ImageRecord(
        image_id=image_id,
        image=image or coco_name(image_id),
        height=size[0],
        width=size[1],
        coco_id=image_id if image is None else coco_id,
        targets=tuple(targets),
        expressions=tuple(said),
    )


def dataset(
    folder: Path,
    name: str,
    split_by: str = "unc",
    *,
    images: str = "coco/train2014",
    coco_annotations: bool = True,
    synthetic: bool = False,
    counted: dict[str, Any] | None = None,
    **splits: list[ImageRecord],
) -> Path:
    """An imported data set; mixing does not require that its image files exist."""
    place = folder / f"{name}-{split_by}"
    place.mkdir(parents=True)
    info = DatasetInfo(
        name=name,
        split_by=split_by,
        image_root=str(folder / images),
        source=str(place),
        synthetic=synthetic,
        coco_annotations=coco_annotations,
        splits={split: count(records) for split, records in splits.items()},
        **(counted or {}),
    )
    (place / "dataset.json").write_text(info.model_dump_json())
    for split, records in splits.items():
        (place / f"{split}.jsonl").write_text("".join(f"{one.model_dump_json()}\n" for one in records))
    return place


def phrases(folder: Path, **splits: list[ImageRecord]) -> Path:
    return dataset(folder, "phrasecut", "official", images="vg/images", coco_annotations=False, **splits)


def train(out: Path) -> list[ImageRecord]:
    return list(ImportedDataset(out).records("train"))


def test_train_splits_are_merged_by_image_and_the_others_stand_beside_them(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5, (1, 2)), record(3)], val=[record(9)])
    two = dataset(tmp_path, "refcoco+", train=[record(5, (1,)), record(4)], testA=[record(9, (7,))])
    report = mix_datasets([one, two], tmp_path / "mix")
    assert report.info.splits == {
        "train": SplitCounts(refs=5, sentences=10, images=3),
        "refcoco_unc_val": SplitCounts(refs=1, sentences=2, images=1),
        "refcocoplus_unc_testA": SplitCounts(refs=1, sentences=2, images=1),
    }
    three, four, five = train(tmp_path / "mix")
    assert [one.image_id for one in (three, four, five)] == [3, 4, 5]
    assert [target.ref_id - ID_STRIDE for target in five.targets] == [1, 2, ID_STRIDE + 1]
    assert [expression.text for expression in five.expressions if expression.target == 2] == [
        "ref 1, 0",
        "ref 1, 1",
    ]
    assert report.info.image_root == str(tmp_path / "coco" / "train2014")
    assert five.image == coco_name(5)
    assert report.info.split_by == "refcoco unc & refcoco+ unc"
    assert "found: no train image is held out" in report.lines()


def test_annotations_of_coco_keep_their_ids_so_that_one_object_is_one(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5, (900,))])
    two = dataset(tmp_path, "refcoco+", train=[record(5, (900,))])
    own = dataset(tmp_path, "own", "own", coco_annotations=False, train=[record(5, (900,))])
    mix_datasets([one, two, own], tmp_path / "mix")
    (five,) = train(tmp_path / "mix")
    assert [target.ann_ids for target in five.targets] == [(900,), (900,), (3 * ID_STRIDE + 900,)]
    assert len({target.ref_id for target in five.targets}) == 3


def test_images_of_several_folders_are_found_from_the_one_they_share(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5)])
    two = phrases(tmp_path, train=[record(5, image="5.jpg", coco_id=8)])
    report = mix_datasets([one, two], tmp_path / "mix")
    assert report.info.image_root == str(tmp_path)
    assert [(one.image_id, one.image, one.coco_id) for one in train(tmp_path / "mix")] == [
        (5, f"coco/train2014/{coco_name(5)}", 5),
        (2 * IMAGE_STRIDE + 5, "vg/images/5.jpg", 8),
    ]


def test_the_same_file_in_two_data_sets_is_one_image(tmp_path: Path) -> None:
    own = [
        dataset(tmp_path, name, "own", images="photos", coco_annotations=False, train=[photo])
        for name, photo in (("a", record(1, image="x.png")), ("b", record(7, image="x.png")))
    ]
    mix_datasets(own, tmp_path / "mix")
    (photo,) = train(tmp_path / "mix")
    assert photo.image_id == IMAGE_STRIDE + 1
    assert len(photo.targets) == 2


LEAKING = "`remove_leaks` leaves out these"


def test_a_train_image_that_another_set_tests_on_is_refused_and_nothing_written(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5), record(6)], val=[record(9)])
    two = dataset(tmp_path, "refcocog", "umd", train=[record(9, (1, 2))], val=[record(5)], test=[record(6)])
    with pytest.raises(InputError) as caught:
        mix_datasets([one, two], tmp_path / "out" / "mix")
    message = str(caught.value)
    leak = "refcoco (unc) train: 1 images with 2 sentences are in refcocog (umd)"
    assert f"{leak} val (such as {coco_name(5)})" in message
    assert f"{leak} test" in message
    assert "refcocog (umd) train: 1 images with 4 sentences are in refcoco (unc) val" in message
    assert f"{LEAKING} 3 images" in message
    assert "--keep-own-leaks" not in message
    assert not list((tmp_path / "out").iterdir())


def test_removed_leaks_are_counted_said_and_kept_on_record(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5), record(6)], val=[record(9)])
    two = dataset(tmp_path, "refcocog", "umd", train=[record(9, (1, 2)), record(6)], val=[record(5)])
    report = mix_datasets([one, two], tmp_path / "mix", remove_leaks=True)
    assert [one.image_id for one in train(tmp_path / "mix")] == [6]
    assert report.summary.removed == SplitCounts(refs=3, sentences=6, images=2)
    said = "\n".join(report.lines())
    assert "found: refcoco (unc) train: 1 images with 2 sentences are in refcocog (umd) val" in said
    assert "removed: 2 images, 3 refs, 6 sentences" in said
    written = json.loads((tmp_path / "mix" / "mix.json").read_text())
    assert written["removed"] == {"refs": 3, "sentences": 6, "images": 2}
    assert len(written["leaks"]) == 2


def test_phrasecuts_copies_of_cocos_images_are_known_by_their_number_in_coco(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5)], testA=[record(9)])
    two = phrases(
        tmp_path,
        train=[record(77, image="77.jpg", coco_id=9, size=(16, 20)), record(78, image="78.jpg")],
        test=[record(79, image="79.jpg", coco_id=5)],
    )
    with pytest.raises(InputError, match=f"(?s)phrasecut.*refcoco .unc. testA.*77.jpg.*{LEAKING} 2"):
        mix_datasets([one, two], tmp_path / "mix")
    report = mix_datasets([one, two], tmp_path / "mix", remove_leaks=True)
    assert [one.image for one in train(tmp_path / "mix")] == ["vg/images/78.jpg"]
    assert (report.summary.by_coco_id, report.summary.by_path) == (2, 1)
    assert any("1 by their path, 0 by what they show" in line for line in report.lines())


def test_a_set_that_is_only_held_out_guards_too_and_its_train_split_does_not_matter(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5), record(6)])
    two = dataset(tmp_path, "refcocog", "umd", train=[record(6)], test=[record(5)])
    with pytest.raises(InputError, match=rf"(?s)refcocog .umd. test.*{LEAKING} 1"):
        mix_datasets([one], tmp_path / "mix", held_out=[two])
    report = mix_datasets([one], tmp_path / "mix", held_out=[two], remove_leaks=True)
    assert list(report.info.splits) == ["train"]
    assert [one.image_id for one in train(tmp_path / "mix")] == [6]


def test_images_known_by_their_files_name_alone_are_guarded_too(tmp_path: Path) -> None:
    before = record(5).model_copy(update={"coco_id": None})  # as imported before the field existed
    one = dataset(tmp_path, "refcoco", train=[before])
    other = record(1, image="val/000000000005.jpg")
    two = dataset(tmp_path, "own", "own", images="own", train=[record(2, image="2.jpg")], val=[other])
    with pytest.raises(InputError, match=LEAKING):
        mix_datasets([one, two], tmp_path / "mix")


def test_own_photos_are_guarded_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "photos")
    one = dataset(tmp_path, "a", "own", images="photos", train=[record(1, image="x.png")])
    two = dataset(
        tmp_path,
        "b",
        "own",
        images="linked",
        train=[record(1, image="y.png")],
        val=[record(2, image="x.png")],
    )
    with pytest.raises(InputError, match=rf"(?s)a .own. train.*b .own. val \(such as x.png\).*{LEAKING}"):
        mix_datasets([one, two], tmp_path / "mix")


def test_scenes_that_are_only_named_like_cocos_images_are_not_taken_for_them(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5)])
    scene = record(5).model_copy(update={"coco_id": None})
    two = dataset(
        tmp_path, "scenes", "synthetic", images="scenes", synthetic=True, train=[scene], val=[scene]
    )
    with pytest.raises(InputError) as caught:
        mix_datasets([one, two], tmp_path / "mix")
    assert "refcoco (unc) train" not in str(caught.value)
    report = mix_datasets([one, two], tmp_path / "mix", keep_own_leaks=True)
    assert len(train(tmp_path / "mix")) == 2
    assert report.info.synthetic


def google(folder: Path) -> Path:
    return dataset(
        folder, "refcocog", "google", train=[record(5), record(6), record(7)], val=[record(5, (9,))]
    )


def test_images_that_gref_google_shares_by_design_are_reported_and_kept_only_on_demand(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=r"(?s)`keep_own_leaks`.*G-Ref google shares them by design"):
        mix_datasets([google(tmp_path)], tmp_path / "mix")
    kept = mix_datasets([tmp_path / "refcocog-google"], tmp_path / "kept", keep_own_leaks=True)
    assert [one.image_id for one in train(tmp_path / "kept")] == [5, 6, 7]
    assert "kept: 1 images, 1 refs, 2 sentences" in kept.lines()
    without = mix_datasets([tmp_path / "refcocog-google"], tmp_path / "without", remove_leaks=True)
    assert [one.image_id for one in train(tmp_path / "without")] == [6, 7]
    assert without.summary.kept.images == 0


def test_keeping_its_own_does_not_let_another_sets_test_images_in(tmp_path: Path) -> None:
    other = dataset(tmp_path, "refcoco", train=[record(5, (3,))], val=[record(6)])
    with pytest.raises(InputError, match=f"{LEAKING} 2"):  # refcoco's 5, google's 6
        mix_datasets([google(tmp_path), other], tmp_path / "mix", keep_own_leaks=True)
    report = mix_datasets(
        [tmp_path / "refcocog-google", other], tmp_path / "mix", keep_own_leaks=True, remove_leaks=True
    )
    five, seven = train(tmp_path / "mix")
    assert (five.image_id, seven.image_id) == (5, 7)
    assert [target.ref_id for target in five.targets] == [ID_STRIDE + 1]
    assert (report.summary.kept.images, report.summary.removed.images) == (1, 2)


def test_an_image_that_its_own_set_and_another_hold_out_is_not_kept(tmp_path: Path) -> None:
    other = dataset(tmp_path, "refcoco", train=[record(8)], val=[record(5)])
    report = mix_datasets([google(tmp_path), other], tmp_path / "mix", keep_own_leaks=True, remove_leaks=True)
    assert [one.image_id for one in train(tmp_path / "mix")] == [6, 7, 8]
    assert (report.summary.kept.images, report.summary.removed.images) == (0, 1)


def test_progress_counts_every_record_that_is_read(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5), record(6)], val=[record(9)])
    two = dataset(tmp_path, "refcocog", train=[record(7)], val=[record(10), record(11)])
    calls: list[tuple[int, int]] = []
    mix_datasets([one], tmp_path / "mix", held_out=[two], progress=lambda *done: calls.append(done))
    assert calls == [(done, 6) for done in range(1, 7)]  # 2 train, 1 held out that is read twice, 2 held out


def test_what_cannot_be_mixed_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    one = dataset(tmp_path, "refcoco", train=[record(5)], val=[record(9)])
    tall = dataset(tmp_path, "tall", train=[record(5, size=(20, 10))])
    tests = dataset(tmp_path, "tests", val=[record(5)])
    alone = dataset(tmp_path, "alone", train=[record(5)])
    large = dataset(tmp_path, "large", train=[record(8, (ID_STRIDE,))])
    leaky = dataset(tmp_path, "leaky", val=[record(5)], train=[record(9)])
    out = tmp_path / "out" / "mix"
    for folders, options, message in (
        ([one, one], {}, "named twice"),
        ([one, alone], {"held_out": [one]}, "named twice"),
        ([one, tests], {}, r"tests-unc has no split 'train' .* but val; .*`held_out`"),
        ([one], {"held_out": [alone]}, r"alone-unc has the split 'train' alone"),
        ([one, tall], {}, r"(?s)cannot be mixed.*different sizes.*8 x 10, and 20 x 10 in .*tall"),
        ([one, large], {}, r"(?s)cannot be mixed.*ids below 0, or of 10,000,000,000,000 and more.*large"),
        ([one, leaky], {"remove_leaks": True}, "no train image is left"),
        ([one, tmp_path / "none"], {}, r"none holds no imported data set"),
        ([], {}, "expected 1 to 98"),
    ):
        with pytest.raises(InputError, match=message):
            mix_datasets(folders, out, **options)  # type: ignore[arg-type]
        assert not out.parent.exists() or not list(out.parent.iterdir())
    mixed = mix_datasets([one, alone], tmp_path / "mixed").folder
    with pytest.raises(InputError, match="as imported, not mixed ones"):
        mix_datasets([mixed, alone], out)
    with pytest.raises(InputError, match="not empty"):
        mix_datasets([one, alone], mixed)


def test_what_the_imports_counted_of_masks_is_kept_and_said(tmp_path: Path) -> None:
    void, soft = ({"files": 1, "pixels": pixels} for pixels in (7, 2))
    parts = [
        dataset(tmp_path, "a", counted={"dropped_pixels": {"void": void}}, train=[record(1)]),
        dataset(
            tmp_path,
            "b",
            counted={"dropped_pixels": {"void": void, "soft": soft}, "masks_are_boxes": True},
            train=[record(2)],
        ),
    ]
    other = dataset(tmp_path, "c", counted={"dropped_pixels": {"void": void}}, val=[record(3)])
    report = mix_datasets(parts, tmp_path / "mix", held_out=[other])
    for info in (report.info, ImportedDataset(tmp_path / "mix").info):
        assert info.dropped_pixels == {
            "void": DroppedPixels(files=2, pixels=14),
            "soft": DroppedPixels(files=1, pixels=2),
        }
        assert info.masks_are_boxes == ("b unc",)
    void_line, soft_line, boxes_line = report.lines()[-3:]
    assert void_line == "warning: 14 pixels of 2 mask files are void (255) and count as outside"
    assert soft_line.startswith("warning: 2 pixels of 1 mask files are darker than half of white")
    assert boxes_line.startswith("warning: every mask of b unc is the box of its annotation")


def test_held_out_splits_of_data_sets_with_the_same_name_stay_apart(tmp_path: Path) -> None:
    one = dataset(tmp_path, "own", "own", train=[record(1)], val=[record(2)])
    two = dataset(tmp_path / "other", "own", "own", train=[record(3)], val=[record(4)])
    assert list(mix_datasets([one, two], tmp_path / "mix").info.splits) == ["train", "own_val", "own_2_val"]


@st.composite
def several(draw: st.DrawFn) -> list[dict[str, list[tuple[int, bool, int]]]]:
    """Data sets: images by split, as (number, whether it is COCO's file, number of refs)."""
    image = st.tuples(st.integers(1, 8), st.booleans(), st.integers(1, 3))
    images = st.lists(image, min_size=1, max_size=6, unique_by=lambda one: one[:2])
    return draw(st.lists(st.fixed_dictionaries({"train": images, "val": images}), min_size=1, max_size=4))


@settings(max_examples=40)
@given(several())
def test_whatever_is_mixed_no_id_meets_another_and_no_test_image_stays(
    tmp_path_factory: pytest.TempPathFactory, sets: list[dict[str, list[tuple[int, bool, int]]]]
) -> None:
    folder = tmp_path_factory.mktemp("mixed")
    folders, held, stay = [], set(), set()
    for number, splits in enumerate(sets):
        records, ref = {}, 0
        for split, images in splits.items():
            records[split] = []
            for image, coco, refs in sorted(images):
                name = None if coco else f"{image}.png"
                own_id = image if coco else 100 + image
                records[split].append(record(own_id, range(ref, ref + refs), image=name))
                ref += refs
        folders.append(dataset(folder, f"set{number}", coco_annotations=False, **records))
        held |= {image[:2] for image in splits["val"]}
    for splits in sets:
        stay |= {image[:2] for image in splits["train"]} - held
    if not stay:
        with pytest.raises(InputError, match="no train image is left"):
            mix_datasets(folders, folder / "mix", remove_leaks=True)
        return
    report = mix_datasets(folders, folder / "mix", remove_leaks=True)
    mixed = ImportedDataset(folder / "mix")
    records = train(folder / "mix")
    assert {(int(Path(one.image).stem[-12:]), one.coco_id is not None) for one in records} == stay
    ids = [one.image_id for one in records]
    assert ids == sorted(set(ids))
    assert all(len(f"{one:012d}") == 12 for one in ids)
    for split in report.info.splits:
        in_split = list(mixed.records(split))
        for of in ("targets", "expressions"):
            every = [
                getattr(each, "ref_id", None) or each.sent_id for one in in_split for each in getattr(one, of)
            ]
            assert len(every) == len(set(every))
        assert count(in_split) == report.info.splits[split]
    wanted = sum(
        2 * refs for splits in sets for image, coco, refs in splits["train"] if (image, coco) not in held
    )
    assert report.info.splits["train"].sentences == wanted
    for one in records:
        for expression in one.expressions:
            source, own = divmod(expression.sent_id, ID_STRIDE)
            assert one.targets[expression.target].ref_id == source * ID_STRIDE + own // 10
