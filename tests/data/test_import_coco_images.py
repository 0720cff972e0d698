"""RefCOCO as downloaded: zipped, and beside COCO's images of 2014 or 2017."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.forms import zipped
from maris_fast.errors import ConfigError, InputError
from tests.data.import_subjects import records
from tests.data.other_forms import Family


def renamed(made: Family, folders: dict[str, Path]) -> None:
    """Copy COCO's images to their names of 2017, in folders given by their names of 2014."""
    (made.root / "images").rename(made.root / "old")
    for row in made.images.values():
        path = next((made.root / "old").glob(f"**/{row['file_name']}"))
        new = folders.get(path.name, folders["others"])
        new.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, new / path.name.rsplit("_", 1)[1])


@pytest.mark.parametrize("place", ["images/train2017", "train2017"])
def test_images_are_found_by_their_names_of_2017(family: Family, place: str) -> None:
    own = family.own()
    renamed(family, {"others": family.root / place})
    family.imported("refcoco")
    other = records(family.out / "other")
    assert [one.pop("image") for one in other] == [one.pop("image").rsplit("_", 1)[1] for one in own]
    assert other == own


def test_images_may_lie_in_train2017_and_val2017(small: Family) -> None:
    coco = small.root / "coco"
    first = "COCO_train2014_000000000003.jpg"
    renamed(small, {first: coco / "val2017", "others": coco / "train2017"})
    small.imported("refcoco", images=Path("coco"))
    images = {one["split"]: one["image"] for one in records(small.out / "other")}
    assert images == {"train": "train2017/000000000007.jpg", "val": "val2017/000000000003.jpg"}


def test_a_missing_image_is_named_as_it_is_annotated(small: Family) -> None:
    renamed(small, {"others": small.root / "train2017"})
    (small.root / "train2017" / "000000000003.jpg").unlink()
    with pytest.raises(InputError, match=r"(?s)missing images.*train2017/COCO_train2014_000000000003\.jpg"):
        small.imported("refcoco")


def test_an_image_of_which_a_row_is_kept_is_not_lost(small: Family) -> None:
    renamed(small, {"others": small.root / "train2017"})
    small.refs[0]["sentences"][0]["sent"] = " "
    small.write()
    info = small.imported("refcoco", leave_out_bad=True)
    assert (info.left_out["train"].expressions, info.left_out["train"].images) == (1, 0)


def packed(made: Family, *, root: str = "refcoco/") -> Path:
    path = made.root / "refcoco.zip"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for file in (made.root / "refcoco").iterdir():
            if file.suffix in (".p", ".json") and not file.name.endswith(".p.json"):
                archive.write(file, f"{root}{file.name}")
                archive.writestr(f"__MACOSX/{root}._{file.name}", b"\0\5\x16\7")
    return path


@pytest.mark.parametrize("root", ["refcoco/", "data/refcoco/", ""])
def test_refcoco_as_downloaded_is_refcoco(family: Family, root: str) -> None:
    own = family.own()
    packed(family, root=root)
    (family.root / "refcoco").rename(family.root / "unpacked")
    info = family.imported("refcoco.zip")
    assert records(family.out / "other") == own
    assert (info.name, info.split_by, info.coco_annotations) == ("refcoco", "unc", True)
    assert info.source == str(family.root / "refcoco.zip" / "refs(unc).p")
    assert sorted(os.listdir(family.out / "other")) == sorted(os.listdir(family.out / "own"))


def test_packed_files_that_cannot_be_used_are_named(small: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    path = packed(small)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"refcoco\.zip is not a whole zip file: .*download it again"):
        small.imported("refcoco.zip")
    half = len(whole) // 4
    path.write_bytes(whole[:half] + bytes(40) + whole[half + 40 :])
    with pytest.raises(InputError, match=r"refcoco\.zip is not a whole zip file"):
        small.imported("refcoco.zip")
    path.write_bytes(whole)
    monkeypatch.setattr(zipped, "_MOST_BYTES", 1000)
    with pytest.raises(InputError, match=r"refcoco\.zip has annotations of more than .* GiB; unpack it"):
        small.imported("refcoco.zip")
    with ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"refcoco\.zip holds no refs; unpack it"):
        small.imported("refcoco.zip")
    with ZipFile(path, "w") as archive:
        for name in ("refcoco", "refcoco+"):
            archive.writestr(f"{name}/refs(unc).p", b"")
    with pytest.raises(InputError, match=r"holds several data sets, refcoco, refcoco\+; unpack it"):
        small.imported("refcoco.zip")
    assert not any(small.out.iterdir())


def test_a_name_in_an_archive_leads_nowhere_else(small: Family) -> None:
    path = packed(small, root="../")
    small.imported("refcoco.zip")
    assert path.is_file()
    assert {one.name for one in small.root.iterdir()} == {"refcoco", "refcoco.zip", "images"}


def test_split_by_is_of_refcocos_layout_alone(small: Family) -> None:
    packed(small)
    assert import_dataset(small.root, "refcoco.zip", small.out / "x", split_by="unc").info.split_by == "unc"
    with pytest.raises(InputError, match=r"refs\(umd\)\.p; split_by there is: unc"):
        import_dataset(small.root, "refcoco.zip", small.out / "y", split_by="umd")
    (small.root / "rooms.jsonl").touch()
    with pytest.raises(ConfigError, match="only one division into splits"):
        import_dataset(small.root, "rooms.jsonl", small.out / "y", split_by="unc")
