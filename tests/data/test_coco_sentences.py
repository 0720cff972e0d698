"""Users' own data as COCO's instances.json with sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.records import ImportedDataset, SplitCounts
from maris_fast.errors import InputError
from tests.data.builders import HEIGHT, WIDTH, Instances


@pytest.fixture
def coco(tmp_path: Path) -> Instances:
    return Instances(tmp_path)


def test_annotations_with_sentences_or_a_caption_are_refs(coco: Instances) -> None:
    report = coco.imported()
    assert report.info.splits == {
        "train": SplitCounts(refs=2, sentences=3, images=1),
        "val": SplitCounts(refs=1, sentences=1, images=1),
    }
    assert report.info.name == "said"
    (train,) = ImportedDataset(coco.out).records("train")
    assert (train.image_id, train.image) == (5, "a.png")
    assert [(e.text, e.target, e.sent_id) for e in train.expressions] == [
        ("left square", 0, 1),
        ("square", 0, 2),
        ("the same place", 1, 3),
    ]
    assert [(t.ref_id, t.ann_ids, t.category, t.area) for t in train.targets] == [
        (50, (50,), "square", 100),
        (51, (51,), "square", 100),
    ]


def test_files_of_one_split_each_are_joined(coco: Instances) -> None:
    whole = coco.said
    for split, image_id in (("train", 5), ("test", 4)):
        coco.said = {
            **whole,
            "images": [
                {k: v for k, v in image.items() if k != "split"}
                for image in whole["images"]
                if image["id"] == image_id
            ],
            "annotations": [row for row in whole["annotations"] if row["image_id"] == image_id],
        }
        coco.write(f"instances_{split}.json")
    report = import_dataset(coco.root, "annotations/instances_{split}.json", coco.out)
    assert {split: counts.sentences for split, counts in report.info.splits.items()} == {
        "train": 3,
        "test": 1,
    }
    assert report.info.name == "instances"
    sentences = [
        expression.sent_id
        for split in report.info.splits
        for record in ImportedDataset(coco.out).records(split)
        for expression in record.expressions
    ]
    assert len(set(sentences)) == 4


def test_captions_of_images_are_ignored_where_annotations_have_sentences(coco: Instances) -> None:
    """Wherever in the file the annotations with sentences are."""
    coco.imported()
    plain = [*ImportedDataset(coco.out).records("train")]
    nameless = [coco.annotation(number, 5) for number in range(100, 140)]
    coco.said["annotations"] = [{**row, "expressions": []} for row in nameless] + coco.said["annotations"]
    for image in coco.said["images"]:
        image["caption"] = "a kitchen"
    coco.out = coco.out.with_name("again")
    coco.imported()
    assert [*ImportedDataset(coco.out).records("train")] == plain


def test_real_annotations_of_coco_with_template_sentences_are_imported(refmini: Path, tmp_path: Path) -> None:
    folder = refmini.parent / "coco128"
    said = json.loads((folder / "instances_train2017.json").read_text())
    names = {category["id"]: category["name"] for category in said["categories"]}
    here = {path.name for path in (folder / "train2017").iterdir()}
    said["images"] = [image for image in said["images"] if image["file_name"] in here][:12]
    ids = {image["id"] for image in said["images"]}
    said["annotations"] = [row for row in said["annotations"] if row["image_id"] in ids]
    for row in said["annotations"]:
        row["caption"] = f"a {names[row['category_id']]}"
    (tmp_path / "said.json").write_text(json.dumps(said))
    report = import_dataset(
        tmp_path, "said.json", tmp_path / "out", ImportOptions(images=folder / "train2017")
    )
    assert report.info.splits["train"].refs == len(said["annotations"]) > 12
    for record in ImportedDataset(tmp_path / "out").records("train"):
        assert record.coco_id == record.image_id


def test_a_crowd_is_not_meant_by_the_name_of_objects_beside_it(coco: Instances) -> None:
    crowd = coco.annotation(41, 4, iscrowd=1)
    objects = [coco.annotation(number, 5) for number in (50, 51)]
    beside = coco.annotation(52, 5, iscrowd=1)
    coco.said["annotations"] = [beside, *objects, crowd]
    coco.said["categories"] = [{"id": 1, "name": "dining_table"}]
    coco.imported(category_sentences=True)
    found = {
        split: [(one.text, record.targets[one.target].ann_ids) for one in record.expressions]
        for split in ("train", "val")
        for record in ImportedDataset(coco.out).records(split)
    }
    assert found == {"train": [("dining table", (50,))], "val": [("dining table", (41,))]}


def no_sentences(coco: Instances) -> None:
    for row in coco.said["annotations"]:
        row.pop("sentences", None)
        row.pop("caption", None)


def empty_caption(coco: Instances) -> None:
    coco.said["annotations"][1]["caption"] = " "


def sentences_as_one_text(coco: Instances) -> None:
    coco.said["annotations"][0]["sentences"] = "left square"


def sentences_without_text(coco: Instances) -> None:
    coco.said["annotations"][0]["sentences"] = [{"raw": "x"}]


def unknown_image(coco: Instances) -> None:
    coco.said["annotations"][0]["image_id"] = 99


def unknown_category(coco: Instances) -> None:
    coco.said["annotations"][0]["category_id"] = 99


def the_same_id_twice(coco: Instances) -> None:
    coco.said["annotations"][1]["id"] = 50


def no_mask(coco: Instances) -> None:
    del coco.said["annotations"][0]["segmentation"]


def no_pixel(coco: Instances) -> None:
    coco.said["annotations"][0]["segmentation"] = [[90, 1, 99, 1, 99, 9]]


def no_images(coco: Instances) -> None:
    del coco.said["images"]


def missing_picture(coco: Instances) -> None:
    (coco.root / "a.png").unlink()


def another_size(coco: Instances) -> None:
    coco.said["images"][0]["width"] = 61


def a_path_for_a_split(coco: Instances) -> None:
    coco.said["images"][1]["split"] = "a/b"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_sentences, r"no annotation in .*said\.json has `sentences` or a `caption`"),
        (empty_caption, r"empty sentences.*ref 51"),
        (sentences_as_one_text, r"row 0: sentences: .*list"),
        (sentences_without_text, r"row 0: sentences\.0.*string"),
        (unknown_image, r"instances\.json lacks.*ref 50: image_id 99"),
        (unknown_category, r"lacks.*ref 50, annotation 50"),
        (the_same_id_twice, r"ids that several refs have.*\(1\).*ref 50 \(2 times\)"),
        (no_mask, r"usable mask.*annotation 50.*neither polygons"),
        (no_pixel, r"usable mask.*annotation 50.*no pixel"),
        (no_images, r"not COCO's instances\.json with sentences: images"),
        (missing_picture, r"missing images.*image 5: .*a\.png"),
        (another_size, r"another size.*image 5: .*annotated 61 x 40"),
        (a_path_for_a_split, r"images row 1: split"),
    ],
)
def test_bad_instances_are_named_and_nothing_is_written(
    coco: Instances, damage: Callable[[Instances], None], message: str
) -> None:
    damage(coco)
    with pytest.raises(InputError, match=f"(?s){message}"):
        coco.imported()
    assert not list(coco.out.parent.iterdir())


def test_files_of_splits_that_each_have_their_own_ids_are_joined(coco: Instances) -> None:
    """As annotation tools export them, with ids from 1; an image that is in both files is one image."""
    del coco.said["images"][1]["split"]
    coco.write("train.json")
    coco.said["images"][0]["file_name"] = "c.png"
    (coco.root / "a.png").rename(coco.root / "c.png")
    Image.new("RGB", (WIDTH, HEIGHT)).save(coco.root / "a.png")
    coco.write("val.json")
    import_dataset(coco.root, "annotations/{split}.json", coco.out)
    ids = {
        split: [(one.image_id, one.image, *(t.ann_ids for t in one.targets)) for one in records]
        for split in ("train", "val")
        if (records := list(ImportedDataset(coco.out).records(split)))
    }
    assert ids == {
        "train": [(4, "b.png", (40,)), (5, "a.png", (50,), (51,))],
        "val": [(4, "b.png", (93,)), (11, "c.png", (103,), (104,))],
    }


def test_files_of_splits_that_disagree_are_refused(coco: Instances) -> None:
    coco.write("train.json")
    with pytest.raises(InputError, match=r"train\.json is named for the split train, but has images of val"):
        import_dataset(coco.root, "annotations/{split}.json", coco.out)
    del coco.said["images"][1]["split"]
    coco.write("train.json")
    coco.said["images"][0]["height"] = 41
    for row in coco.said["annotations"]:
        row["id"] += 100
    coco.write("val.json")
    with pytest.raises(InputError, match=r"(?s)ids that several images have.*image 5 is a\.png \(2 times\)"):
        import_dataset(coco.root, "annotations/{split}.json", coco.out)
    assert not list(coco.out.parent.iterdir())
