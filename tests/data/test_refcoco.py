from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from rich.console import Console

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.published import PUBLISHED, published_as, verdict
from maris_fast.data_shards.records import DatasetInfo, ImportedDataset, SplitCounts
from maris_fast.errors import InputError
from tests.data.builders import HEIGHT, SQUARE, WIDTH, TinyDataset


@pytest.fixture
def tiny(tmp_path: Path) -> TinyDataset:
    return TinyDataset(tmp_path)


def test_a_target_tells_which_pixels_two_of_its_polygons_cover(tiny: TinyDataset) -> None:
    tiny.write()
    tiny.imported()
    targets = [
        t for split in ("train", "val") for r in ImportedDataset(tiny.out).records(split) for t in r.targets
    ]
    twice = {target.ref_id: target.overlap for target in targets}
    overlap = np.zeros((HEIGHT, WIDTH), dtype=bool)
    overlap[10:20, 15:20] = True
    assert all(mask is not None for mask in twice.values())
    assert np.array_equal(twice[12].decode(), overlap)
    assert twice[11].decode().sum() == twice[13].decode().sum() == 0


def test_refs_become_one_record_an_image_and_split(tiny: TinyDataset) -> None:
    tiny.write()
    report = tiny.imported()
    assert report.info.splits == {
        "train": SplitCounts(refs=2, sentences=3, images=1),
        "val": SplitCounts(refs=1, sentences=1, images=1),
    }
    (record,) = ImportedDataset(tiny.out).records("train")
    assert (record.image_id, record.image) == (7, "COCO_train2014_000000000007.jpg")
    assert [target.category for target in record.targets] == ["square", "thing"]
    assert [(e.text, e.target, e.sent_id, e.kind) for e in record.expressions] == [
        ("left square", 0, 110, None),
        ("square", 0, 111, None),
        ("the wide one", 1, 120, None),
    ]
    assert Path(report.info.image_root) == tiny.images
    assert not report.info.synthetic


def test_a_mask_is_the_union_of_its_polygons(tiny: TinyDataset) -> None:
    tiny.write()
    tiny.imported()
    (record,) = ImportedDataset(tiny.out).records("train")
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[10:20, 10:25] = True
    np.testing.assert_array_equal(record.targets[1].mask.decode(), expected)
    assert record.targets[1].area == expected.sum()


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_are_kept(tiny: TinyDataset, compressed: bool) -> None:
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[:, 1:3] = True
    if compressed:
        rle = coco_mask.encode(np.asfortranarray(expected.astype(np.uint8)))
        tiny.annotation(103)["segmentation"]["counts"] = rle["counts"].decode()
    tiny.write()
    tiny.imported()
    (record,) = ImportedDataset(tiny.out).records("val")
    np.testing.assert_array_equal(record.targets[0].mask.decode(), expected)


def test_an_image_in_two_splits_is_a_group_in_each(tiny: TinyDataset) -> None:
    tiny.refs[0]["split"] = "val"
    tiny.write()
    tiny.imported()
    dataset = ImportedDataset(tiny.out)
    assert [record.image_id for record in dataset.records("train")] == [7]
    assert [record.image_id for record in dataset.records("val")] == [3, 7]


def test_only_the_splits_asked_for_are_read_and_checked(tiny: TinyDataset) -> None:
    tiny.image(3).unlink()
    tiny.write()
    assert list(tiny.imported(splits=["train"]).info.splits) == ["train"]
    assert not (tiny.out / "val.jsonl").exists()


def test_no_split_asked_for_means_all(tiny: TinyDataset) -> None:
    tiny.write()
    assert list(tiny.imported(splits=[]).info.splits) == ["train", "val"]


def test_an_empty_output_folder_may_be_a_link(tiny: TinyDataset, tmp_path: Path) -> None:
    tiny.write()
    (tmp_path / "disk").mkdir()
    tiny.out.symlink_to(tmp_path / "disk")
    tiny.imported()
    assert (tmp_path / "disk" / "train.jsonl").is_file()


def test_degenerate_polygons_beside_good_ones_are_ignored(tiny: TinyDataset) -> None:
    tiny.annotation(101)["segmentation"] = [SQUARE, [1, 1, 30, 30], [5, 5]]
    tiny.write()
    tiny.imported()
    (record,) = ImportedDataset(tiny.out).records("train")
    assert record.targets[0].area == 100


def test_an_exif_rotated_image_keeps_its_raw_pixels(tiny: TinyDataset) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it and see 40 x 60
    Image.new("RGB", (WIDTH, HEIGHT)).save(tiny.image(7), exif=exif)
    tiny.write()
    tiny.imported()
    (record,) = ImportedDataset(tiny.out).records("train")
    assert (record.height, record.width) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("turn", [2, 3, 4])
def test_a_published_image_that_exif_turns_in_place_is_as_stored(tiny: TinyDataset, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (WIDTH, HEIGHT)).save(tiny.image(7), exif=exif)
    tiny.write()
    tiny.imported()
    (record,) = ImportedDataset(tiny.out).records("train")
    assert record.orientation == "stored"


def test_progress_counts_the_images(tiny: TinyDataset) -> None:
    calls: list[tuple[int, int]] = []
    tiny.write()
    tiny.imported(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def missing_image(tiny: TinyDataset) -> None:
    tiny.image(7).unlink()


def image_of_another_size(tiny: TinyDataset) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(tiny.image(7))


def truncated_jpeg(tiny: TinyDataset) -> None:
    os.truncate(tiny.image(7), tiny.image(7).stat().st_size // 2)


def image_that_is_text(tiny: TinyDataset) -> None:
    tiny.image(7).write_text("404 not found")


def no_image_folder(tiny: TinyDataset) -> None:
    tiny.images.rename(tiny.images.with_name("val2014"))


def empty_expression(tiny: TinyDataset) -> None:
    tiny.refs[1]["sentences"][1]["sent"] = "  "


def no_polygon(tiny: TinyDataset) -> None:
    tiny.annotation(101)["segmentation"] = []


def no_segmentation(tiny: TinyDataset) -> None:
    del tiny.annotation(101)["segmentation"]


def polygon_off_the_image(tiny: TinyDataset) -> None:
    tiny.annotation(101)["segmentation"] = [[70, 10, 80, 10, 80, 20, 70, 20]]


def polygon_of_words(tiny: TinyDataset) -> None:
    tiny.annotation(101)["segmentation"] = [["a"] * 6]


def run_lengths_of_another_size(tiny: TinyDataset) -> None:
    tiny.annotation(103)["segmentation"]["size"] = [WIDTH, HEIGHT]


def run_lengths_too_long(tiny: TinyDataset) -> None:
    tiny.annotation(103)["segmentation"]["counts"] = [40, HEIGHT * WIDTH]


def run_lengths_damaged(tiny: TinyDataset) -> None:
    other = coco_mask.encode(np.ones((HEIGHT * 2, WIDTH), dtype=np.uint8, order="F"))
    tiny.annotation(103)["segmentation"]["counts"] = other["counts"].decode()


def unknown_annotation(tiny: TinyDataset) -> None:
    tiny.refs[2]["ann_id"] = 999


def unknown_category(tiny: TinyDataset) -> None:
    tiny.annotation(103)["category_id"] = 90


def unknown_image(tiny: TinyDataset) -> None:
    tiny.refs[2]["image_id"] = 999


def annotation_of_another_image(tiny: TinyDataset) -> None:
    tiny.refs[2]["ann_id"] = 101


def split_that_is_a_path(tiny: TinyDataset) -> None:
    tiny.refs[2]["split"] = "../../val"


def refs_without_ids(tiny: TinyDataset) -> None:
    del tiny.refs[2]["ann_id"]


def refs_as_a_dict(tiny: TinyDataset) -> None:
    tiny.refs = {"refs": tiny.refs}  # type: ignore[assignment]


def no_refs(tiny: TinyDataset) -> None:
    tiny.refs = []


def instances_without_images(tiny: TinyDataset) -> None:
    del tiny.instances["images"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_image, r"missing images.*\(1\):\s+image 7: .*000000000007\.jpg"),
        (
            image_of_another_size,
            r"another size.*use COCO's original files.*image 7: .*is 40 x 60, annotated 60 x 40",
        ),
        (truncated_jpeg, r"cannot be read to their end.*image 7: .*truncated"),
        (image_that_is_text, r"cannot be read to their end.*image 7"),
        (no_image_folder, r"no images below .*images/train2014"),
        (empty_expression, r"empty sentences.*ref 11, sentence 111, image 7"),
        (no_polygon, r"usable mask.*ref 11, annotation 101, image 7 .*three or more corners"),
        (no_segmentation, r"usable mask.*annotation 101.*neither polygons nor run lengths"),
        (polygon_off_the_image, r"usable mask.*annotation 101.*no pixel"),
        (polygon_of_words, r"usable mask.*annotation 101.*cannot be drawn"),
        (run_lengths_of_another_size, r"usable mask.*annotation 103.*for size \[60, 40\]"),
        (run_lengths_too_long, r"usable mask.*annotation 103.*cover 2440 pixels of 2400"),
        (run_lengths_damaged, r"usable mask.*annotation 103.*damaged"),
        (unknown_annotation, r"instances\.json lacks.*ref 13, annotation 999"),
        (unknown_category, r"instances\.json lacks.*ref 13, annotation 103"),
        (unknown_image, r"instances\.json lacks.*ref 13: image_id 999"),
        (annotation_of_another_image, r"another image.*ref 13, annotation 101, .*it is of image 7"),
        (split_that_is_a_path, r"not as their format says \(1\).*row 2: split"),
        (refs_without_ids, r"refs\(unc\)\.p cannot.*not as their format says \(1\).*row 2: ann_id"),
        (refs_as_a_dict, r"not a list of refs"),
        (no_refs, r"holds no refs"),
        (instances_without_images, r"instances\.json is not COCO's.*images"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    tiny: TinyDataset, damage: Callable[[TinyDataset], None], message: str
) -> None:
    damage(tiny)
    tiny.write()
    with pytest.raises(InputError, match=f"(?s){message}"):
        tiny.imported()
    assert not list(tiny.out.parent.iterdir())


def test_damaged_annotation_files_are_named(tiny: TinyDataset) -> None:
    tiny.write()
    instances = tiny.root / "refcoco" / "instances.json"
    os.truncate(instances, instances.stat().st_size // 2)
    with pytest.raises(InputError, match=r"instances\.json.*JSON"):
        tiny.imported()
    instances.unlink()
    with pytest.raises(InputError, match=r"no file .*instances\.json"):
        tiny.imported()
    (tiny.root / "refcoco" / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(InputError, match=r"os\.system"):
        tiny.imported()
    assert not list(tiny.out.parent.iterdir())


def test_what_is_not_there_is_answered_with_what_is(tiny: TinyDataset) -> None:
    tiny.write()
    with pytest.raises(InputError, match=r"no folder .*refcocog; data sets below .*: refcoco$"):
        import_dataset(tiny.root, "refcocog", tiny.out)
    with pytest.raises(InputError, match=r"refs\(google\)\.p; split_by there is: unc$"):
        import_dataset(tiny.root, "refcoco", tiny.out, split_by="google")
    with pytest.raises(InputError, match=r"no split 'trian' .*has train, val; did you mean 'train'\?"):
        tiny.imported(splits=["trian"])
    assert not list(tiny.out.parent.iterdir())


def test_all_problems_are_reported_at_once_each_kind_with_its_number(tiny: TinyDataset) -> None:
    tiny.refs += [TinyDataset.ref(100 + i, 999, 7, "train", "x") for i in range(25)]
    truncated_jpeg(tiny)
    tiny.write()
    with pytest.raises(InputError) as caught:
        tiny.imported()
    message = str(caught.value)
    assert "lacks (25):" in message
    assert message.count("annotation 999") == 10
    assert "... and 15 more" in message
    assert "cannot be read to their end" in message


def test_without_the_image_check_a_truncated_file_passes_but_a_missing_one_does_not(
    tiny: TinyDataset,
) -> None:
    truncated_jpeg(tiny)
    tiny.write()
    tiny.imported(check_images=False)
    tiny.image(3).unlink()
    with pytest.raises(InputError, match="missing images"):
        import_dataset(tiny.root, "refcoco", tiny.out.with_name("again"), ImportOptions(check_images=False))


def test_an_output_folder_in_use_is_refused_untouched(tiny: TinyDataset) -> None:
    tiny.write()
    tiny.out.mkdir()
    tiny.imported()  # an empty one is fine
    before = {path: path.read_bytes() for path in tiny.out.iterdir()}
    with pytest.raises(InputError, match="not empty"):
        tiny.imported()
    assert {path: path.read_bytes() for path in tiny.out.iterdir()} == before
    assert list(tiny.out.parent.iterdir()) == [tiny.out]


def test_counts_are_judged_against_the_published_ones() -> None:
    published = PUBLISHED["refcoco", "unc"]
    assert sum(counts.sentences for counts in published.values()) == 142_210
    assert verdict("refcoco", "unc", "val", published["val"]) == "equal"
    fewer = published["val"].model_copy(update={"sentences": 10_833})
    assert verdict("refcoco", "unc", "val", fewer) == "differs by -1 sentences"
    assert verdict("scenes", "synthetic", "val", fewer) == "no published counts"


@pytest.mark.parametrize(
    ("spelled", "meant"),
    [
        ("refcoco", ("refcoco", "unc")),
        ("refcoco-unc/instances.json", ("refcoco", "unc")),
        ("refcoco+", ("refcoco+", "unc")),
        ("refcoco/refcocog/data/train.parquet", ("refcocog", "umd")),
        ("jxu124_refcocoplus", ("refcoco+", "unc")),
        ("anns/refcocog_u", ("refcocog", "umd")),
        ("anns/refcocog_g", ("refcocog", "google")),
        ("refcocog-google/instances.json", ("refcocog", "google")),
        ("finetune_refcocog_train.json", ("refcocog", "umd")),
        ("grefs", (None, "own")),
        ("kitchen", (None, "own")),
    ],
)
def test_members_of_the_family_are_known_by_other_names(spelled: str, meant: tuple[str | None, str]) -> None:
    assert published_as(spelled) == meant


@pytest.mark.parametrize(
    ("name", "split_by"),
    [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd"), ("refcocog", "google")],
)
def test_every_member_of_the_family_is_imported_and_compared_with_its_own_counts(
    tiny: TinyDataset, name: str, split_by: str
) -> None:
    tiny.write()
    tiny.place.rename(tiny.root / name)
    (tiny.root / name / "refs(unc).p").rename(tiny.root / name / f"refs({split_by}).p")
    info = import_dataset(tiny.root, name, tiny.out, split_by=split_by).info
    assert (info.name, info.split_by, info.coco_annotations) == (name, split_by, True)
    for split, ours in info.splits.items():
        published = PUBLISHED[name, split_by][split]
        fewer = published.sentences - ours.sentences
        assert f"-{fewer:,} sentences" in verdict(name, split_by, split, ours)
    records = [record for split in info.splits for record in ImportedDataset(tiny.out).records(split)]
    assert [record.coco_id for record in records] == [7, 3]


def test_images_may_lie_at_a_named_place(tiny: TinyDataset) -> None:
    tiny.write()
    tiny.images.rename(tiny.root / "pictures")
    assert tiny.imported(images=Path("pictures")).info.image_root == str(tiny.root / "pictures")
    with pytest.raises(InputError, match=r"no folder .*photos; `images` names the folder"):
        import_dataset(tiny.root, "refcoco", tiny.out.with_name("x"), ImportOptions(images=Path("photos")))


def test_the_report_shows_our_counts_and_the_published_ones(tmp_path: Path) -> None:
    ours = SplitCounts(refs=2573, sentences=4896, images=1299)
    info = DatasetInfo(name="refcocog", split_by="umd", image_root="", source="", splits={"val": ours})
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(ImportReport(tmp_path, info).table())
    text = console.export_text()
    assert "1,299" in text
    assert "1,300" in text
    assert "differs by -1 images" in text


def test_real_refcoco_and_gref_are_imported(refmini: Path, tmp_path: Path) -> None:
    refcoco = import_dataset(refmini, "refcoco", tmp_path / "refcoco").info
    gref = import_dataset(refmini, "refcocog", tmp_path / "gref").info
    assert list(refcoco.splits) == ["val", "testA", "testB"]
    assert sum(counts.refs for counts in refcoco.splits.values()) == 24
    assert sum(counts.sentences for counts in refcoco.splits.values()) == 67
    assert gref.splits == {"val": SplitCounts(refs=9, sentences=9, images=8)}
    instances = json.loads((refmini / "refcocog" / "instances.json").read_text())
    areas = {row["id"]: row["area"] for row in instances["annotations"]}
    for record in ImportedDataset(tmp_path / "gref").records("val"):
        for target in record.targets:
            assert target.area == pytest.approx(areas[target.ann_ids[0]], rel=0.05, abs=30)
