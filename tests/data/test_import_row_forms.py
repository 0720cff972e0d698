"""Lists of rows with masks beside sentences, written here as SeqTR, Sa2VA and CRIS have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.rle import Rle
from tests.data.import_subjects import records
from tests.data.other_forms import Family, masks

Rows = list[dict[str, Any]]
Change = Callable[[Rows], None]


def unchanged(rows: Rows) -> None:
    pass


def seqtr(made: Family, change: Change = unchanged) -> str:
    """Write SeqTR's file; return the data set's name, as the other functions do."""
    said = {}
    for split in made.splits:
        said[split] = [
            {
                "image_id": ref["image_id"],
                "height": made.images[ref["image_id"]]["height"],
                "width": made.images[ref["image_id"]]["width"],
                "bbox": made.annotations[ref["ann_id"]]["bbox"],
                "mask": made.annotations[ref["ann_id"]]["segmentation"],
                "expressions": [one["sent"] for one in ref["sentences"]],
                "cat_id": 0,
            }
            for ref in made.split(split)
        ]
    change(said["train" if "train" in said else made.splits[0]])
    (made.root / "refcoco-unc").mkdir()
    (made.root / "refcoco-unc" / "instances.json").write_text(json.dumps(said))
    return "refcoco-unc/instances.json"


def sa2va(made: Family, change: Change = unchanged) -> str:
    folder = made.root / "mine"
    folder.mkdir()
    for split in made.splits:
        rows: dict[int, dict[str, Any]] = {}
        for ref in made.split(split):
            name = made.images[ref["image_id"]]["file_name"]
            row = rows.setdefault(ref["image_id"], {"image": name, "mask": [], "text": []})
            for sentence in ref["sentences"]:
                row["mask"].append(made.annotations[ref["ann_id"]]["segmentation"])
                row["text"].append(sentence["sent"])
        said = [*rows.values()]
        if split in ("train", made.splits[0]):
            change(said)
        (folder / f"annotations_{split}.json").write_text(json.dumps(said))
    (folder / "images").symlink_to(next(path.parent for path in made.root.glob("images/**/*.jpg")))
    return "mine"


def cris(made: Family, change: Change = unchanged) -> str:
    """Write CRIS' files, with masks as refer's ``getMask() * 255`` in 8 bits: 254 where two polygons meet."""
    anns, drawn = made.root / "anns" / "refcoco", made.root / "masks" / "refcoco"
    anns.mkdir(parents=True)
    drawn.mkdir(parents=True)
    targets = {one["ref_id"]: one for record in made.own() for one in record["targets"]}
    for split in made.splits:
        rows = []
        for ref in made.split(split):
            said = [
                {"idx": i, "sent_id": one["sent_id"], "sent": one["sent"].strip()}
                for i, one in enumerate(ref["sentences"])
            ]
            target = targets[ref["ref_id"]]
            once, twice = (decoded(target[name]) for name in ("mask", "overlap"))
            pixels = ((once.astype(np.uint8) + twice) * np.uint8(255)).astype(np.uint8)
            Image.fromarray(pixels).save(drawn / f"{ref['ref_id']}.png")
            rows.append(
                {
                    "bbox": [0, 0, 1, 1],
                    "cat": 0,
                    "segment_id": ref["ref_id"],
                    "img_name": made.images[ref["image_id"]]["file_name"],
                    "sentences": said,
                    "sentences_num": len(said),
                }
            )
        if split in ("train", made.splits[0]):
            change(rows)
        (anns / f"{split}.json").write_text(json.dumps(rows))
    return "anns/refcoco"


def decoded(mask: dict[str, Any]) -> np.ndarray:
    return Rle.model_validate(mask).decode()


FORMS = {"seqtr": seqtr, "sa2va": sa2va, "cris": cris}


@pytest.mark.parametrize("form", FORMS)
def test_masks_and_sentences_are_those_of_refcocos_own_layout(family: Family, form: str) -> None:
    dataset = FORMS[form](family)
    own = records(family.out / "own") if (family.out / "own").exists() else family.own()
    info = family.imported(dataset)
    assert masks(records(family.out / "other")) == masks(own)
    images = {split: counts.images for split, counts in info.splits.items()}
    assert images == {split: len({r["image"] for r in own if r["split"] == split}) for split in images}
    published = ("mine", "own") if form == "sa2va" else ("refcoco", "unc")
    assert (info.name, info.split_by) == published


def test_cris_names_cocos_categories(small: Family) -> None:
    small.imported(cris(small))
    assert {t["category"] for one in records(small.out / "other") for t in one["targets"]} == {"person"}


def without_image(rows: Rows) -> None:
    for key in ("image_id", "image", "img_name"):
        rows[0].pop(key, None)


def no_row(rows: Rows) -> None:
    rows.append("no row")  # type: ignore[arg-type]


def empty_sentence(rows: Rows) -> None:
    for key, text in (("expressions", " "), ("text", " "), ("sentences", {"sent": " "})):
        if key in rows[0]:
            rows[0][key][0] = text


def box_alone(rows: Rows) -> None:
    rows[0]["mask"] = None


def fewer_texts(rows: Rows) -> None:
    rows[0]["text"].pop()


def another_mask(rows: Rows) -> None:
    rows[0]["segment_id"] = 99


def unknown_image(rows: Rows) -> None:
    for key, value in (("image_id", 99), ("image", "99.jpg"), ("img_name", "99.jpg")):
        if key in rows[0]:
            rows[0][key] = value


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        (
            "seqtr",
            without_image,
            r"rows that are not as their format says.*train row 0: image_id: Field required",
        ),
        ("sa2va", without_image, r"row 0: image: Field required"),
        ("cris", without_image, r"row 0: img_name: Field required"),
        ("seqtr", no_row, r"train row 2: Input should be a valid dictionary"),
        ("sa2va", no_row, r"row 1: Input should be a valid dictionary"),
        ("cris", no_row, r"row 2: Input should be a valid dictionary"),
        ("seqtr", empty_sentence, r"empty sentences.*instances\.json: train row 0"),
        ("sa2va", empty_sentence, r"empty sentences.*annotations_train\.json: row 0"),
        ("cris", empty_sentence, r"empty sentences.*train\.json: row 0"),
        (
            "seqtr",
            box_alone,
            r"train row 0: it has a box \(`bbox`\) and no mask; masks are what is trained on",
        ),
        ("sa2va", fewer_texts, r"row 0: it has 3 masks and 2 texts"),
        ("cris", another_mask, r"objects without a usable mask.*no image .*masks/refcoco/99\.png"),
        ("seqtr", unknown_image, r"missing images.*COCO_train2014_000000000099\.jpg"),
        ("sa2va", unknown_image, r"missing images.*99\.jpg"),
        ("cris", unknown_image, r"missing images.*99\.jpg"),
    ],
)
def test_what_cannot_be_used_is_named(small: Family, form: str, change: Change, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        small.imported(FORMS[form](small, change))
    assert not (small.out / "other").exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_row_is_left_out_alone_and_counted(small: Family, form: str) -> None:
    info = small.imported(FORMS[form](small, empty_sentence), leave_out_bad=True)
    assert {split: lost.expressions for split, lost in info.left_out.items()} == {"train": 1}
    whole = small.own() if form != "cris" else records(small.out / "own")
    assert len(masks(records(small.out / "other"))) == len(masks(whole)) - 1


def test_content_that_is_not_a_list_of_rows_is_refused(small: Family) -> None:
    path = small.root / seqtr(small)
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "val": {"rows": []}}))
    with pytest.raises(InputError, match=r"is not SeqTR's lists: val holds no list, but dict"):
        small.imported("refcoco-unc/instances.json")
