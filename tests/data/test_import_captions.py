"""MDETR's and ReferFormer's files, written here as their authors' converters write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maris_fast.errors import InputError
from tests.data.import_subjects import records
from tests.data.other_forms import Family, masks

Content = dict[str, Any]


def converted(made: Family, split: str, *, masks: bool = True, first: int = 1) -> Content:
    """One split as ReferFormer's converter writes it; MDETR's has no masks and continues ids across files."""
    images: list[Any] = []
    annotations: list[Any] = []
    for ref in made.split(split):
        image, annotation = made.images[ref["image_id"]], made.annotations[ref["ann_id"]]
        for sentence in ref["sentences"]:
            number = first + len(images)
            images.append(
                {
                    **{name: image[name] for name in ("file_name", "height", "width")},
                    "original_id": image["id"],
                    "id": number,
                    "caption": sentence["sent"],
                    "dataset_name": "refcoco",
                }
            )
            row = {**annotation, "image_id": number, "id": number, "original_id": annotation["id"]}
            if not masks:
                del row["segmentation"]
            annotations.append(row)
    return {
        "info": made.instances.get("info", ""),
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": made.instances["categories"],
    }


def write(made: Family, split: str, content: Content) -> Path:
    path = made.root / f"instances_refcoco_{split}.json"
    path.write_text(json.dumps(content))
    return path


def without_ids(imported: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records without ids of refs and sentences, which these files lack; targets in annotation order."""
    for record in imported:
        targets = record["targets"]
        for said in record["expressions"]:
            said["target"] = targets[said["target"]]["ann_ids"]
            del said["sent_id"]
        for target in targets:
            del target["ref_id"]
        targets.sort(key=lambda target: target["ann_ids"])
        record["expressions"].sort(key=lambda said: (said["target"], said["text"]))
        for key in ("coco_id", "flickr_id"):  # the files have no image URLs
            record.pop(key, None)
    return imported


def test_a_caption_an_image_is_regrouped_by_the_original_ids(family: Family) -> None:
    for split in family.splits:
        write(family, split, converted(family, split))
    info = family.imported("instances_refcoco_{split}.json")
    assert without_ids(records(family.out / "other")) == without_ids(family.own())
    assert (info.name, info.split_by, info.coco_annotations) == ("refcoco", "unc", True)
    images = len({(ref["split"], ref["image_id"]) for ref in family.refs})
    assert sum(counts.images for counts in info.splits.values()) == images


def test_a_file_alone_and_a_folder_of_them_say_their_splits(small: Family) -> None:
    small.own()
    (small.root / "converted").mkdir()
    for split in small.splits:
        write(small, split, converted(small, split)).rename(
            small.root / "converted" / f"refcoco_{split}.json"
        )
    assert list(small.imported("converted").splits) == ["train", "val"]
    assert list(small.imported("converted/refcoco_val.json", "one").splits) == ["val"]
    both = masks(records(small.out / "other"))
    assert both == masks(records(small.out / "own"))


def test_boxes_without_masks_are_refused(small: Family) -> None:
    write(small, "train", converted(small, "train", masks=False, first=0))
    with pytest.raises(
        InputError, match=r"objects that have a box and no mask; masks are what is trained on"
    ):
        small.imported("instances_refcoco_train.json")


def no_caption(content: Content) -> None:
    content["images"][0]["caption"] = None


def another_image(content: Content) -> None:
    content["annotations"][0]["image_id"] = 99


def no_annotation(content: Content) -> None:
    del content["annotations"][0]


def no_size(content: Content) -> None:
    del content["images"][0]["height"]


def an_annotation_of_text(content: Content) -> None:
    content["annotations"].append("text")


def two_objects(content: Content) -> None:
    content["annotations"].append({**content["annotations"][0], "id": 99, "original_id": 99})


def two_data_sets(content: Content) -> None:
    content["images"][0]["dataset_name"] = "refcocog"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_caption, r"empty sentences.*ref 102, sentence 1"),
        (another_image, r"annotations row 0: image_id: .*integer"),
        (no_annotation, r"annotations without a usable mask.*ref -1.*neither polygons"),
        (no_size, r"images row 0: height: Field required"),
        (an_annotation_of_text, r"annotations row 3: Input should be a valid dict"),
        (two_objects, r"1 captions, such as that of image 1, have several annotations"),
        (two_data_sets, r"holds several data sets, refcoco, refcocog; name the files of one"),
    ],
)
def test_what_cannot_be_used_is_named(small: Family, damage: Any, message: str) -> None:
    content = converted(small, "train")
    damage(content)
    write(small, "train", content)
    with pytest.raises(InputError, match=f"(?s){message}"):
        small.imported("instances_refcoco_train.json")
    assert not (small.out / "other").exists()
