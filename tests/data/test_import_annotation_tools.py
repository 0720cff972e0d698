"""Exports of Roboflow, CVAT, Label Studio and labelme, and LVIS, written here as the tools write them."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.rle import Rle
from tests.data.import_subjects import records
from tests.data.other_forms import Family, masks

Content = dict[str, Any]
Change = Callable[[Content], None]


def unchanged(content: Content) -> None:
    pass


def image_file(made: Family, name: str) -> Path:
    return next(path for path in (made.root / "images").glob(f"**/{name}"))


def export(
    made: Family, split: str, *, first: int, name: Callable[[str], str], said: Callable[[Content], Content]
) -> Content:
    """COCO's lists of one split, with its own ids starting at ``first``.

    Args:
        name: maps COCO's name of an image to its name in the export.
        said: the fields that a ref adds to its annotation.
    """
    refs = made.split(split)
    ids = {one: first + place for place, one in enumerate(dict.fromkeys(ref["image_id"] for ref in refs))}
    categories = list(dict.fromkeys(sentence(ref) for ref in refs))
    return {
        "info": {"description": "exported"},
        "licenses": [],
        "categories": [
            {"id": first + place, "name": text, "supercategory": "none"}
            for place, text in enumerate(categories)
        ],
        "images": [
            {
                "id": ids[one],
                "license": 1,
                "file_name": name(made.images[one]["file_name"]),
                "height": made.images[one]["height"],
                "width": made.images[one]["width"],
            }
            for one in ids
        ],
        "annotations": [
            {
                "id": first + place,
                "image_id": ids[ref["image_id"]],
                "category_id": first + categories.index(sentence(ref)),
                "bbox": made.annotations[ref["ann_id"]]["bbox"],
                "area": made.annotations[ref["ann_id"]]["area"],
                "segmentation": made.annotations[ref["ann_id"]]["segmentation"],
                "iscrowd": 0,
                **said(ref),
            }
            for place, ref in enumerate(refs)
        ],
    }


def sentence(ref: Content) -> str:
    return str(ref["sentences"][0]["sent"]).strip()


def roboflow(made: Family, change: Change = unchanged) -> tuple[str, dict[str, Any]]:
    """One folder per split, images beside the file; classes are the sentences. Returns name and options."""
    for split in made.splits:
        folder = made.root / "robo" / {"val": "valid"}.get(split, split)
        folder.mkdir(parents=True)

        def named(name: str, folder: Path = folder) -> str:
            new = name.replace(".jpg", "_jpg.rf.0a1b2c3d4e5f.jpg")
            shutil.copyfile(image_file(made, name), folder / new)
            return new

        content = export(made, split, first=0, name=named, said=lambda ref: {})
        if split == made.splits[0]:
            change(content)
        (folder / "_annotations.coco.json").write_text(json.dumps(content))
    return "robo", {"category_sentences": True}


def cvat(made: Family, change: Change = unchanged) -> tuple[str, dict[str, Any]]:
    """One file per split, each with ids from 1, images in one folder, and sentences as an attribute."""
    (made.root / "task" / "annotations").mkdir(parents=True)
    (made.root / "task" / "images").mkdir()

    def named(name: str) -> str:
        shutil.copyfile(image_file(made, name), made.root / "task" / "images" / name)
        return name

    def said(ref: Content) -> Content:
        texts = "\n".join(one["sent"] for one in ref["sentences"])
        return {"attributes": {"occluded": False, "rotation": 0.0, "sentences": texts}}

    for split in made.splits:
        content = export(made, split, first=1, name=named, said=said)
        if split == made.splits[0]:
            change(content)
        (made.root / "task" / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return "task/annotations/instances_{split}.json", {}


def lvis(made: Family, change: Change = unchanged) -> tuple[str, dict[str, Any]]:
    """URLs of COCO's images in place of file names."""
    (made.root / "coco" / "train2017").mkdir(parents=True)

    def named(name: str) -> str:
        new = name.rsplit("_", 1)[1]
        shutil.copyfile(image_file(made, name), made.root / "coco" / "train2017" / new)
        return f"http://images.cocodataset.org/train2017/{new}"

    for split in made.splits:
        content = export(made, split, first=1, name=named, said=lambda ref: {})
        for row in content["images"]:
            row["coco_url"] = row.pop("file_name")
        for row in content["categories"]:
            row["name"] = row["name"].replace(" ", "_")
        if split == made.splits[0]:
            change(content)
        (made.root / f"lvis_v1_{split}.json").write_text(json.dumps(content))
    return "lvis_v1_{split}.json", {"category_sentences": True, "images": Path("coco")}


def label_studio(made: Family, change: Change = unchanged) -> tuple[str, dict[str, Any]]:
    """Ids from 0; image paths on Label Studio's own server, with the files below ``images``."""
    for split in made.splits:
        folder = made.root / "studio" / split / "images"
        folder.mkdir(parents=True)

        def named(name: str, folder: Path = folder) -> str:
            shutil.copyfile(image_file(made, name), folder / f"1a2b3c4d-{name}")
            return f"..\\..\\label-studio\\label-studio\\data\\media\\upload\\7\\1a2b3c4d-{name}"

        content = export(made, split, first=0, name=named, said=lambda ref: {})
        if split == made.splits[0]:
            change(content)
        (made.root / "studio" / split / "result.json").write_text(json.dumps(content))
    return "studio/{split}/result.json", {"category_sentences": True}


def labelme(made: Family, change: Change = unchanged) -> tuple[str, dict[str, Any]]:
    """One file per image, beside it; masks that are not polygons are PNGs of their bounding box."""
    for split in made.splits:
        folder = made.root / "photos" / split
        folder.mkdir(parents=True)
        for image_id in {ref["image_id"] for ref in made.split(split)}:
            image = made.images[image_id]
            path = shutil.copyfile(image_file(made, image["file_name"]), folder / image["file_name"])
            shapes = []
            for ref in made.split(split):
                if ref["image_id"] == image_id:
                    shapes += shapes_of(ref, made.annotations[ref["ann_id"]]["segmentation"])
            content = {
                "version": "5.5.0",
                "flags": {},
                "shapes": shapes,
                "imagePath": path.name,
                "imageData": None,
                "imageHeight": image["height"],
                "imageWidth": image["width"],
            }
            if split == made.splits[0]:
                change(content)
            path.with_suffix(".json").write_text(json.dumps(content))
    return "photos", {}


def shapes_of(ref: Content, segmentation: Any) -> list[Content]:
    texts = "\n".join(one["sent"] for one in ref["sentences"])
    group = {"label": "thing", "group_id": ref["ref_id"], "description": texts, "flags": {}, "mask": None}
    if isinstance(segmentation, list):
        return [
            {**group, "points": np.reshape(polygon, (-1, 2)).tolist(), "shape_type": "polygon"}
            for polygon in segmentation
        ]
    pixels = decoded(segmentation)
    rows, columns = np.nonzero(pixels)
    box = pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    png = io.BytesIO()
    Image.fromarray(box).save(png, "PNG")
    corners = [[int(columns.min()), int(rows.min())], [int(columns.max()), int(rows.max())]]
    drawn = base64.b64encode(png.getvalue()).decode()
    return [{**group, "points": corners, "shape_type": "mask", "mask": drawn}]


def decoded(segmentation: Content) -> np.ndarray:
    runs = segmentation["counts"]
    inside = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.bool_)
    return inside.reshape(segmentation["size"], order="F")


TOOLS = {one.__name__: one for one in (roboflow, cvat, lvis, label_studio, labelme)}
BY_CATEGORY = ("roboflow", "lvis", "label_studio")
every_tool = pytest.mark.parametrize("tool", TOOLS)


def by_split_and_sentence(imported: list[dict[str, Any]]) -> dict[tuple[str, str], set[str]]:
    """Run lengths without image names, which differ in exports."""
    found: dict[tuple[str, str], set[str]] = {}
    for (split, _, text), mask in masks(imported).items():
        found.setdefault((split, text), set()).add(mask)
    return found


@every_tool
def test_an_export_gives_the_masks_of_refcocos_own_layout(family: Family, tool: str) -> None:
    dataset, options = TOOLS[tool](family)
    info = family.imported(dataset, **options)
    own = by_split_and_sentence(family.own())
    other = by_split_and_sentence(records(family.out / "other"))
    assert {split for split, _ in other} == set(info.splits) == set(family.splits)
    if tool in BY_CATEGORY:  # one class per object
        assert not family.repeats
        assert other.keys() == {(ref["split"], sentence(ref)) for ref in family.refs}
        assert all(masks <= own[said] for said, masks in other.items())
    else:
        assert other == own
    images = {(ref["split"], ref["image_id"]) for ref in family.refs}
    assert sum(counts.images for counts in info.splits.values()) == len(images)


def test_objects_of_a_category_are_meant_together(small: Family) -> None:
    for ref in small.refs[:2]:
        ref["sentences"] = [{"sent_id": ref["ref_id"], "sent": "bicycles"}]
    dataset, options = roboflow(small)
    small.imported(dataset, **options)
    (train,) = (one for one in records(small.out / "other") if one["split"] == "train")
    (target,) = train["targets"]
    expected = np.zeros((train["height"], train["width"]), np.bool_)
    expected[10:20, 10:25] = True
    assert np.array_equal(Rle.model_validate(target["mask"]).decode(), expected)
    assert [one["text"] for one in train["expressions"]] == ["bicycles"]


def test_without_sentences_the_option_is_named(small: Family) -> None:
    dataset, _ = roboflow(small)
    with pytest.raises(InputError, match=r"so nothing is referred to; with `category_sentences`"):
        small.imported(dataset)


@pytest.mark.parametrize("tool", ["roboflow", "cvat"])
def test_images_of_each_split_may_lie_in_a_folder_of_its_own(small: Family, tool: str) -> None:
    dataset, options = TOOLS[tool](small)
    dataset = {"roboflow": "robo/{split}/_annotations.coco.json"}.get(tool, dataset)
    for split in small.splits:
        folder = {"val": "valid"}.get(split, split) if tool == "roboflow" else split
        (small.root / "photos" / folder / "all").mkdir(parents=True)
        for path in [*(small.root / "robo" / folder).glob("*.jpg"), *small.root.glob("task/images/*.jpg")]:
            shutil.copyfile(path, small.root / "photos" / folder / "all" / path.name)
    shutil.rmtree(small.root / "images")
    info = small.imported(dataset, **{**options, "images": Path("photos/{split}/all")})
    assert info.image_root == str(small.root / "photos")
    assert info.name == ("robo" if tool == "roboflow" else "instances")
    assert list(info.splits) == (["train", "valid"] if tool == "roboflow" else ["train", "val"])


def no_mask(content: Content) -> None:
    for row in content.get("annotations", ()):
        row["segmentation"] = []
    for shape in content.get("shapes", ()):
        shape.update(shape_type="rectangle", points=[[1, 2], [8, 9]])


def no_file(content: Content) -> None:
    for row in content.get("images", ()):
        for key in ("file_name", "coco_url"):
            if key in row:
                row[key] += ".gone.jpg"
    if "imagePath" in content:
        content["imagePath"] = "gone.jpg"


def no_category(content: Content) -> None:
    content["categories"] = []


@pytest.mark.parametrize(
    ("tool", "change", "message"),
    [
        ("roboflow", no_mask, r"objects that have a box and no mask"),
        ("cvat", no_mask, r"objects that have a box and no mask"),
        ("lvis", no_mask, r"objects that have a box and no mask"),
        ("label_studio", no_mask, r"objects that have a box and no mask"),
        ("labelme", no_mask, r"objects without a usable mask.*it is four numbers, as of a box, and no mask"),
        ("roboflow", no_file, r"missing images.*\.gone\.jpg"),
        ("cvat", no_file, r"missing images.*\.gone\.jpg"),
        ("lvis", no_file, r"missing images.*coco/train2017/.*\.gone\.jpg"),
        ("label_studio", no_file, r"missing images.*1a2b3c4d-.*\.gone\.jpg"),
        ("labelme", no_file, r"missing images.*photos/train/gone\.jpg"),
        ("roboflow", no_category, r"lacks.*annotation"),
    ],
)
def test_what_cannot_be_used_is_named(small: Family, tool: str, change: Change, message: str) -> None:
    dataset, options = TOOLS[tool](small, change)
    with pytest.raises(InputError, match=f"(?s){message}"):
        small.imported(dataset, **options)
    assert not (small.out / "other").exists()


def test_a_labelme_file_that_is_damaged_is_left_out_alone(small: Family) -> None:
    dataset, _ = labelme(small)
    (small.root / "photos" / "train" / "broken.json").write_text('{"shapes": [')
    shutil.copyfile(
        next((small.root / "photos" / "val").glob("*.json")), small.root / "photos" / "val" / "one.json"
    )
    with pytest.raises(InputError, match=r"train/broken\.json row 0: it is not JSON"):
        small.imported(dataset)
    info = small.imported(dataset, leave_out_bad=True)
    assert {split: lost.rows for split, lost in info.left_out.items()} == {"train": 1}


def test_shapes_of_one_label_without_a_description_are_one_object(small: Family) -> None:
    def labels(content: Content) -> None:
        for shape in content["shapes"]:
            shape.update(label="square", description="", group_id=None)

    small.imported(labelme(small, labels)[0])
    (train,) = (one for one in records(small.out / "other") if one["split"] == "train")
    assert [one["text"] for one in train["expressions"]] == ["square"]
    assert train["targets"][0]["area"] == 150


def png(width: int, height: int) -> str:
    """A base64 PNG of a few bytes that declares the given size."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", b""), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def gif() -> str:
    """Pillow could read it, but may start a program for some formats, so only PNG is allowed."""
    file = io.BytesIO()
    Image.new("L", (2, 2), 255).save(file, "GIF")
    return base64.b64encode(file.getvalue()).decode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shape: shape.update(mask=gif()), "cannot be read: cannot identify image file"),
        (lambda shape: shape.update(mask="no PNG"), "the mask of the shape 'thing' cannot be read: "),
        (lambda shape: shape.update(mask=png(60_000, 60_000)), "cannot be read: .*decompression bomb"),
        (lambda shape: shape.update(mask=png(2, 2)), "the mask of the shape 'thing' cannot be read: "),
        (
            lambda shape: shape.update(points=[[59, 39]]),
            "the shape 'thing' cannot be read: it does not lie in",
        ),
        (lambda shape: shape.update(points=[[math.inf, 0]]), "cannot be read: it does not lie in the image"),
        (lambda shape: shape.update(points=[]), "the mask of the shape 'thing' cannot be read"),
        (lambda shape: shape.update(points="x"), r"shapes\.0\.points: Input should be a valid list"),
    ],
)
def test_a_labelme_mask_that_cannot_be_read_is_named(small: Family, change: Change, message: str) -> None:
    dataset, _ = labelme(small)
    path = next((small.root / "photos" / "val").glob("*.json"))
    content = json.loads(path.read_text())
    change(content["shapes"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        small.imported(dataset)
