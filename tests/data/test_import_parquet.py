"""Parquet files of the Hugging Face Hub, written here with the columns of the data sets' cards."""

from __future__ import annotations

import builtins
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maris_fast.data_shards.records import ImportedDataset
from maris_fast.errors import InputError
from maris_fast.rle import Rle
from tests.data.import_subjects import records
from tests.data.other_forms import Family, masks
from tests.data.test_import_damage import FORMS

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

SENTENCE = pa.struct(
    {"raw": pa.string(), "sent": pa.string(), "sent_id": pa.int64(), "tokens": pa.list_(pa.string())}
)
REF = pa.schema(
    {
        "sent_ids": pa.list_(pa.int64()),
        "file_name": pa.string(),
        "ann_id": pa.int64(),
        "ref_id": pa.int64(),
        "image_id": pa.int64(),
        "split": pa.string(),
        "sentences": pa.list_(SENTENCE),
        "category_id": pa.int64(),
        "raw_anns": pa.string(),
        "raw_image_info": pa.string(),
        "raw_sentences": pa.string(),
        "image_path": pa.string(),
        "bbox": pa.list_(pa.float64()),
        "captions": pa.list_(pa.string()),
        "global_image_id": pa.string(),
        "anns_id": pa.string(),
    }
)
"""Schema of jxu124/refcoco."""
SAMPLE = pa.struct(
    {
        "id": pa.int64(),
        "image_id": pa.int64(),
        "category": pa.string(),
        "supercategory": pa.string(),
        "label": pa.string(),
        "sentences": pa.list_(pa.string()),
        "bbox": pa.list_(pa.float32()),
        "mask": pa.struct({"counts": pa.string(), "size": pa.list_(pa.int32())}),
    }
)
IMAGE = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "image_id": pa.int64(),
        "file_name": pa.string(),
        "samples": pa.list_(SAMPLE),
    }
)
"""Schema of moondream/refcoco-m."""
HUB_SPLITS = {"val": "validation", "testA": "test"}

Rows = list[dict[str, Any]]


def ref_row(made: Family, ref: dict[str, Any]) -> dict[str, Any]:
    image, annotation = made.images[ref["image_id"]], made.annotations[ref["ann_id"]]
    return {
        **{name: ref.get(name) for name in ("sent_ids", "file_name", "category_id", "sentences")},
        **{name: ref[name] for name in ("ann_id", "ref_id", "image_id", "split")},
        "raw_anns": json.dumps(annotation),
        "raw_image_info": json.dumps(image),
        "raw_sentences": json.dumps(ref["sentences"]),
        "image_path": f"coco/train2014/{image['file_name']}",
        "bbox": annotation["bbox"],
        "captions": [one["sent"] for one in ref["sentences"]],
    }


def write_refs(made: Family, change: Callable[[Rows], None] = lambda rows: None) -> Path:
    folder = made.root / "hub" / "refcoco" / "data"
    folder.mkdir(parents=True)
    for split in made.splits:
        rows = [ref_row(made, ref) for ref in made.split(split)]
        change(rows)
        name = f"{HUB_SPLITS.get(split, split)}-00000-of-00001-0123456789abcdef.parquet"
        parquet.write_table(pa.Table.from_pylist(rows, REF), folder / name)
    return folder


def write_images(
    made: Family, own: Rows, change: Callable[[Rows], None] = lambda rows: None, *, embedded: bool = True
) -> None:
    """Write the split val, with masks as imported from RefCOCO's own layout."""
    rows = []
    for record in own:
        if record["split"] != "val":
            continue
        said = [
            {
                "id": target["ref_id"],
                "image_id": record["image_id"],
                "category": target["category"],
                "sentences": [one["text"] for one in record["expressions"] if one["target"] == index],
                "bbox": [0, 0, 1, 1],
                "mask": {"counts": target["mask"]["counts"], "size": target["mask"]["size"]},
            }
            for index, target in enumerate(record["targets"])
        ]
        file = next(made.root.glob(f"images/**/{record['image']}"))
        image = {"bytes": file.read_bytes(), "path": None} if embedded else None
        names = {"image_id": record["image_id"], "file_name": record["image"], "samples": said}
        rows.append({"image": image, **names})
    change(rows)
    (made.root / "refcoco-m").mkdir()
    table = pa.Table.from_pylist(rows, IMAGE)
    parquet.write_table(table, made.root / "refcoco-m" / "validation-00000-of-00002.parquet")


def test_refcoco_of_the_hub_is_refcoco(family: Family) -> None:
    write_refs(family)
    info = family.imported("hub/refcoco")
    assert records(family.out / "other") == family.own()
    assert (info.name, info.split_by, info.coco_annotations) == ("refcoco", "unc", True)


def test_a_file_alone_and_files_by_a_placeholder_are_read(small: Family) -> None:
    folder = write_refs(small)
    whole = small.own()
    for path in folder.iterdir():
        path.rename(folder / f"{path.name.split('-')[0]}.parquet")
    small.imported("hub/refcoco/data/validation.parquet", "file")
    assert ImportedDataset(small.out / "file").info.name == "refcoco"
    assert records(small.out / "file") == [one for one in whole if one["split"] == "val"]
    small.imported("hub/refcoco/data/{split}.parquet", "pattern")
    assert records(small.out / "pattern") == whole


@pytest.mark.parametrize("images", ["where COCO's are", "in the files alone"])
def test_masks_of_refcoco_m_and_its_images_are_read(family: Family, images: str) -> None:
    own = [one for one in family.own() if one["split"] == "val"]
    write_images(family, own)
    if images == "in the files alone":
        (family.root / "images").rename(family.root / "elsewhere")
    info = family.imported("refcoco-m")
    other = records(family.out / "other")
    assert masks(other) == masks(own)
    assert [one["image"] for one in other] == [one["image"] for one in own]
    assert info == ImportedDataset(family.out / "other").info
    assert all((Path(info.image_root) / one["image"]).is_file() for one in other)
    assert (Path(info.image_root) == family.out / "other" / "images") == (images == "in the files alone")


@pytest.mark.parametrize("form", ["seqtr", "cris", "captions", "refs", "images"])
def test_published_images_that_exif_turns_are_as_stored(small: Family, form: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    for path in small.root.glob("images/**/*.jpg"):
        Image.open(path).save(path, exif=exif)
    if form == "refs":
        write_refs(small)
        dataset = "hub/refcoco"
    elif form == "images":
        write_images(small, small.own())
        dataset = "refcoco-m"
    else:
        dataset, _ = FORMS[form](small)
    small.imported(dataset)
    assert all("orientation" not in one for one in records(small.out / "other"))  # which means: as stored


def broken_json(rows: Rows) -> None:
    rows[0]["raw_anns"] = rows[0]["raw_anns"][:-1]


def no_sentences(rows: Rows) -> None:
    rows[0]["sentences"] = None


def a_box_alone(rows: Rows) -> None:
    rows[0]["raw_anns"] = json.dumps({**json.loads(rows[0]["raw_anns"]), "segmentation": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken_json, r"not as their format says.*train-0.*\.parquet row 0: raw_anns: it is not JSON"),
        (no_sentences, r"train-0.*\.parquet row 0: sentences: Input should be a valid list"),
        (a_box_alone, r"objects that have a box and no mask"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    small: Family, change: Callable[[Rows], None], message: str
) -> None:
    write_refs(small, change)
    with pytest.raises(InputError, match=f"(?s){message}"):
        small.imported("hub/refcoco")
    assert not (small.out / "other").exists()


def test_a_row_that_cannot_be_used_is_left_out_alone(small: Family) -> None:
    def damaged(rows: Rows) -> None:
        if len(rows) > 1:
            broken_json(rows)

    write_refs(small, damaged)
    info = small.imported("hub/refcoco", leave_out_bad=True)
    assert {split: (lost.rows, lost.expressions) for split, lost in info.left_out.items()} == {
        "train": (1, 1)
    }


def test_run_lengths_of_another_size_are_named(small: Family) -> None:
    def other_size(rows: Rows) -> None:
        rows[0]["samples"][0]["mask"] = Rle.empty(3, 5).model_dump()

    write_images(small, small.own(), other_size)
    with pytest.raises(InputError, match=r"another size than annotated.*\n.*annotated 5 x 3"):
        small.imported("refcoco-m")


@pytest.mark.parametrize("name", ["../../stray.jpg", "/stray.jpg", "x" * 300, "."])
def test_an_image_is_written_nowhere_but_in_its_folder(small: Family, name: str) -> None:
    def renamed(rows: Rows) -> None:
        rows[0]["file_name"] = name

    write_images(small, small.own(), renamed)
    shutil.rmtree(small.root / "images")
    before = {*small.out.parent.rglob("*")}
    with pytest.raises(InputError, match=r"image paths that leave|missing images|cannot be read"):
        small.imported("refcoco-m")
    assert {*small.out.parent.rglob("*")} == before


def test_files_that_are_damaged_or_of_other_columns_are_named(small: Family) -> None:
    folder = write_refs(small)
    (path,) = folder.glob("train-*")
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"train-.*\.parquet is not a whole Parquet file: .*download it"):
        small.imported("hub/refcoco")
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(InputError, match=r"train-.*\.parquet is not a whole Parquet file"):
        small.imported("hub/refcoco")
    parquet.write_table(pa.table({"image": ["a"], "caption": ["b"]}), path)
    for other in {*folder.iterdir()} - {path}:
        other.unlink()
    with pytest.raises(
        InputError, match=r"has the columns caption, image; known are those of jxu124/refcoco"
    ):
        small.imported("hub/refcoco")


def test_without_pyarrow_the_extra_is_named(small: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    write_refs(small)
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"run: pip install 'maris-fast\[parquet\]'"):
        small.imported("hub/refcoco")
