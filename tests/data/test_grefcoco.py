"""gRefCOCO's format: refs that mean one object, several, or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.published import PUBLISHED_SENTENCES, verdict_on_all
from maris_fast.data_shards.records import SplitCounts
from maris_fast.errors import InputError
from tests.data.builders import Grefs


@pytest.fixture
def grefs(tmp_path: Path) -> Grefs:
    return Grefs(tmp_path)


def test_one_target_several_and_none_are_imported_and_counted(grefs: Grefs) -> None:
    report = grefs.imported()
    assert report.info.splits == {
        "train": SplitCounts(refs=3, sentences=4, images=1),
        "val": SplitCounts(refs=2, sentences=2, images=1),
    }
    assert (report.info.name, report.info.split_by, report.info.coco_annotations) == ("grefcoco", "unc", True)
    record = grefs.train()
    one, two = (annotation["id"] for annotation in grefs.objects[:2])
    assert [target.ann_ids for target in record.targets] == [(one,), (one, two), ()]
    assert [(e.target, e.sent_id) for e in record.expressions] == [(0, 10), (1, 20), (1, 21), (2, 30)]
    assert record.coco_id == grefs.first


def test_several_targets_are_the_union_of_their_masks_and_none_is_an_empty_one(grefs: Grefs) -> None:
    two = grefs.objects[1]["id"]
    grefs.refs.append(grefs.ref(9, [two], grefs.first, "train", "the other"))
    grefs.imported()
    one, both, none, other = (target.mask.decode() for target in grefs.train().targets)
    np.testing.assert_array_equal(both, one | other)
    assert both.sum() == grefs.train().targets[1].area > max(one.sum(), other.sum())
    assert none.shape == both.shape
    assert not none.any()
    assert grefs.train().targets[2].category == ""


def test_real_annotations_of_coco_make_targets_of_several(refmini: Path, tmp_path: Path) -> None:
    real = Grefs(tmp_path, refmini)
    real.imported()
    one, both, none = real.train().targets
    assert both.area > one.area > none.area == 0
    areas = {row["id"]: row["area"] for row in real.instances["annotations"]}
    assert one.area == pytest.approx(areas[one.ann_ids[0]], rel=0.05, abs=30)
    assert both.area <= 1.05 * sum(areas[ann_id] for ann_id in both.ann_ids) + 30


def test_categories_of_several_are_joined_each_once(grefs: Grefs) -> None:
    grefs.objects[0]["category_id"], grefs.objects[1]["category_id"] = 1, 3
    grefs.imported()
    assert grefs.train().targets[1].category == "person, car"
    assert grefs.train().targets[0].category == "person"


def test_a_crowd_beside_other_objects_is_left_out_as_in_the_authors_baseline(grefs: Grefs) -> None:
    grefs.objects[1]["iscrowd"] = 1
    grefs.imported()
    assert grefs.train().targets[1].ann_ids == (grefs.objects[0]["id"],)
    assert grefs.train().targets[1].area == grefs.train().targets[0].area


def test_crowds_are_kept_where_there_is_nothing_else(grefs: Grefs) -> None:
    for one in grefs.objects[:2]:
        one["iscrowd"] = 1
    grefs.imported()
    alone, both, _ = grefs.train().targets
    assert alone.ann_ids == (grefs.objects[0]["id"],)
    assert both.ann_ids == tuple(one["id"] for one in grefs.objects[:2])
    assert both.area > alone.area > 0


def test_an_object_named_twice_is_one(grefs: Grefs) -> None:
    grefs.refs[1]["ann_id"] = [grefs.objects[0]["id"]] * 2
    grefs.imported()
    assert grefs.train().targets[1].ann_ids == (grefs.objects[0]["id"],)


def test_the_total_is_judged_where_nothing_else_is_published() -> None:
    total = PUBLISHED_SENTENCES["grefcoco", "unc"]
    assert total == 259_859
    quarter = {split: SplitCounts(refs=1, sentences=1, images=1) for split in ("val", "testA", "testB")}
    whole = {"train": SplitCounts(refs=1, sentences=total - 3, images=1), **quarter}
    assert verdict_on_all("grefcoco", "unc", whole) == "equal"
    assert verdict_on_all("grefcoco", "unc", quarter) is None
    fewer = {**whole, "val": SplitCounts(refs=1, sentences=0, images=1)}
    assert verdict_on_all("grefcoco", "unc", fewer) == "differs by -1 sentences"


def nothing_in_the_list(grefs: Grefs) -> None:
    grefs.refs[1]["ann_id"] = []


def none_and_one(grefs: Grefs) -> None:
    grefs.refs[1]["ann_id"] = [-1, grefs.objects[0]["id"]]


def an_id_that_is_text(grefs: Grefs) -> None:
    grefs.refs[1]["ann_id"] = ["a"]


def no_ann_id(grefs: Grefs) -> None:
    del grefs.refs[1]["ann_id"]


def one_of_two_unknown(grefs: Grefs) -> None:
    grefs.refs[1]["ann_id"] = [grefs.objects[0]["id"], 999]


def one_of_two_in_another_image(grefs: Grefs) -> None:
    grefs.refs[1]["ann_id"] = [grefs.objects[0]["id"], grefs.others[0]["id"]]


def one_of_two_without_a_mask(grefs: Grefs) -> None:
    grefs.objects[1]["segmentation"] = []


def unknown_image_of_no_target(grefs: Grefs) -> None:
    grefs.refs[2]["image_id"] = 999


def empty_sentence(grefs: Grefs) -> None:
    grefs.refs[2]["sentences"][0]["sent"] = " "


def a_split_that_is_a_path(grefs: Grefs) -> None:
    grefs.refs[0]["split"] = "../val"


def refs_by_id(grefs: Grefs) -> None:
    grefs.refs = {"1": grefs.refs[0]}  # type: ignore[assignment]


def no_refs(grefs: Grefs) -> None:
    grefs.refs = []


def no_categories(grefs: Grefs) -> None:
    del grefs.instances["categories"]


def another_size(grefs: Grefs) -> None:
    grefs.instances["images"] = [{**image, "height": 33} for image in grefs.instances["images"]]
    grefs.refs = [grefs.ref(3, [-1], grefs.first, "train", "nobody")]


def no_images(grefs: Grefs) -> None:
    (grefs.root / "images").rename(grefs.root / "pictures")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            nothing_in_the_list,
            r"grefs\(unc\)\.json cannot.*not as their format says.*row 1: ann_id.*\[\] is neither objects",
        ),
        (none_and_one, r"row 1: ann_id.*is neither objects nor \[-1\]"),
        (an_id_that_is_text, r"row 1: ann_id\.0.*integer"),
        (no_ann_id, r"row 1: ann_id.*required"),
        (one_of_two_unknown, r"instances\.json lacks.*ref 2, annotation 999"),
        (one_of_two_in_another_image, r"another image.*ref 2, annotation \d+.*it is of image"),
        (one_of_two_without_a_mask, r"usable mask.*ref 2, annotation.*three or more corners"),
        (unknown_image_of_no_target, r"instances\.json lacks.*ref 3: image_id 999"),
        (empty_sentence, r"empty sentences.*ref 3, sentence 30"),
        (a_split_that_is_a_path, r"row 0: split"),
        (refs_by_id, r"not a list of refs"),
        (no_refs, r"holds no refs"),
        (no_categories, r"instances\.json is not COCO's.*categories"),
        (another_size, r"another size.*annotated \d+ x 33"),
        (no_images, r"no images below .*`images`"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    grefs: Grefs, damage: Callable[[Grefs], None], message: str
) -> None:
    damage(grefs)
    with pytest.raises(InputError, match=f"(?s){message}"):
        grefs.imported()
    assert not list(grefs.out.parent.iterdir())


def test_files_that_are_not_there_or_cut_are_named(grefs: Grefs) -> None:
    grefs.write()
    file = grefs.root / "grefcoco" / "grefs(unc).json"
    os.truncate(file, 100)
    with pytest.raises(InputError, match=r"grefs\(unc\)\.json.*JSON"):
        import_dataset(grefs.root, "grefcoco", grefs.out)
    file.unlink()
    with pytest.raises(
        InputError, match=r"(?s)grefcoco has none of the known forms.*grefs\(<split-by>\)\.json"
    ):
        import_dataset(grefs.root, "grefcoco", grefs.out)
    assert not list(grefs.out.parent.iterdir())
