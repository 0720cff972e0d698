"""Masks in every form that refer's own code and its descendants accept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from maris_fast.cli.app import app
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.records import ImportedDataset, Target
from maris_fast.errors import InputError
from tests.data.builders import Grefs, Instances, Photos, TinyDataset


def pixels(height: int, width: int) -> np.ndarray:
    """The union of two overlapping boxes."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:20, 10:25] = 1
    return mask


def boxes(height: int, width: int) -> list[np.ndarray]:
    masks = [np.zeros((height, width), np.uint8) for _ in range(2)]
    masks[0][10:20, 10:20] = masks[1][10:20, 15:25] = 1
    return masks


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat) != 0)
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


LEFT = [10, 10, 20, 10, 20, 20, 10, 20]
RIGHT = [15, 10, 25, 10, 25, 20, 15, 20]
FORMS: dict[str, Callable[[int, int], Any]] = {
    "polygons": lambda h, w: [LEFT, RIGHT],
    "compressed run lengths": lambda h, w: compressed(pixels(h, w)),
    "run lengths": lambda h, w: run_lengths(pixels(h, w)),
    "a list of one compressed, as RRSIS-D has it": lambda h, w: [compressed(pixels(h, w))],
    "a list of one": lambda h, w: [run_lengths(pixels(h, w))],
    "a list of two": lambda h, w: [compressed(one) for one in boxes(h, w)],
    "a list of both kinds": lambda h, w: [compressed(boxes(h, w)[0]), RIGHT],
}
SUMMED = {"polygons", "a list of two", "a list of both kinds"}


def drawn_by_refcoco(folder: Path, form: Callable[[int, int], Any]) -> Target:
    tiny = TinyDataset(folder)
    tiny.annotation(101)["segmentation"] = form(40, 60)
    tiny.write()
    tiny.imported()
    return next(ImportedDataset(tiny.out).records("train")).targets[0]


def drawn_by_grefcoco(folder: Path, form: Callable[[int, int], Any]) -> Target:
    grefs = Grefs(folder)
    grefs.objects[0]["segmentation"] = form(60, 80)
    grefs.imported()
    return grefs.train().targets[0]


def drawn_by_coco(folder: Path, form: Callable[[int, int], Any]) -> Target:
    coco = Instances(folder)
    coco.said["annotations"][0]["segmentation"] = form(40, 60)
    coco.imported()
    return next(ImportedDataset(coco.out).records("train")).targets[0]


def drawn_by_jsonl(folder: Path, form: Callable[[int, int], Any]) -> Target:
    photos = Photos(folder)
    photos.lines[0]["mask"] = form(40, 60)
    photos.imported()
    return photos.record("train").targets[0]


IMPORTERS = [drawn_by_refcoco, drawn_by_grefcoco, drawn_by_coco, drawn_by_jsonl]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("drawn", IMPORTERS)
def test_every_form_of_a_mask_gives_the_same_pixels(
    tmp_path: Path, drawn: Callable[[Path, Callable[[int, int], Any]], Target], form: str
) -> None:
    target = drawn(tmp_path, FORMS[form])
    np.testing.assert_array_equal(target.mask.decode(), pixels(*target.mask.size))
    assert target.area == 150
    if target.overlap is not None:
        assert target.overlap.decode().sum() == (50 if form in SUMMED else 0)


BAD_LISTS: dict[str, tuple[Callable[[int, int], Any], str]] = {
    "of another size": (
        lambda h, w: [compressed(pixels(w, h))],
        r"run lengths are for size \[60, 40\], the image is \[40, 60\]",
    ),
    "damaged": (lambda h, w: [{"size": [h, w], "counts": "PP"}], r"run lengths are damaged"),
    "without counts": (lambda h, w: [{"size": [h, w]}], r"run lengths have no counts"),
    "empty": (lambda h, w: [], r"no polygon of three or more corners"),
}


@pytest.mark.parametrize("what", BAD_LISTS)
def test_a_list_of_bad_run_lengths_is_named(tmp_path: Path, what: str) -> None:
    form, message = BAD_LISTS[what]
    tiny = TinyDataset(tmp_path)
    tiny.annotation(101)["segmentation"] = form(40, 60)
    tiny.write()
    with pytest.raises(InputError, match=rf"(?s)usable mask \(1\).*ref 11, annotation 101.*{message}"):
        tiny.imported()


@pytest.mark.parametrize(
    ("annotated", "message"),
    [
        (
            (40, 60),
            r"images of another size than annotated \(width x height\); use the annotated files \(1\):\n"
            r".*00131\.jpg is 60 x 42, annotated 60 x 40",
        ),
        ((42, 60), r"ref 31, annotation 131, .*run lengths are for size \[40, 60\], the image is \[42, 60\]"),
    ],
)
def test_an_image_of_another_size_than_its_mask_is_named_or_left_out_as_in_rrsis_d(
    tmp_path: Path, annotated: tuple[int, int], message: str
) -> None:
    tiny = TinyDataset(tmp_path)
    Image.new("RGB", (60, 42)).save(tiny.images / "00131.jpg")
    height, width = annotated
    tiny.instances["images"].append(
        {"id": 131, "file_name": "00131.jpg", "height": height, "width": width},
    )
    tiny.instances["annotations"].append(
        {"id": 131, "image_id": 131, "category_id": 1, "segmentation": [compressed(pixels(40, 60))]}
    )
    tiny.refs.append(TinyDataset.ref(31, 131, 131, "train", "the airport"))
    tiny.write()
    with pytest.raises(InputError, match=message) as refused:
        tiny.imported()
    assert "COCO's" not in str(refused.value)
    lost = tiny.imported(leave_out_bad=True).info.left_out["train"]
    assert (lost.rows, lost.expressions, lost.images) == (1, 1, 1)


class RefZom(TinyDataset):
    """Refs as Ref-ZOM has them: ``source`` and lists of ``ann_id`` in a pickle."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        one, many, zero = self.refs
        one.update(source="one", ann_id=[102])
        many.update(source="many", ann_id=[101, 102], category_id=[1, 2])
        zero.update(source="zero", ann_id=[103])

    def targets(self) -> dict[int, Target]:
        self.write()
        report: ImportReport = self.imported()
        records = [r for split in report.info.splits for r in ImportedDataset(self.out).records(split)]
        return {target.ref_id: target for record in records for target in record.targets}


@pytest.mark.parametrize("nothing", [[103], [], None, 103])
def test_refs_of_ref_zom_mean_one_several_or_none(tmp_path: Path, nothing: Any) -> None:
    zom = RefZom(tmp_path)
    zom.refs[2]["ann_id"] = nothing
    targets = zom.targets()
    assert {ref: target.ann_ids for ref, target in targets.items()} == {12: (102,), 11: (101, 102), 13: ()}
    assert (targets[11].area, targets[13].area) == (150, 0)


@pytest.mark.parametrize("nothing", [-1, [-1]])
def test_refs_in_a_pickle_mean_none_as_grefcoco_says_it(tmp_path: Path, nothing: Any) -> None:
    tiny = TinyDataset(tmp_path)
    tiny.refs[2]["ann_id"] = nothing
    tiny.write()
    tiny.imported()
    (record,) = ImportedDataset(tiny.out).records("val")
    assert (record.targets[0].ann_ids, record.targets[0].area) == ((), 0)


def test_a_null_ann_id_means_none_only_where_the_row_says_so(tmp_path: Path) -> None:
    grefs = Grefs(tmp_path)
    grefs.refs[2]["ann_id"] = None  # its no_target is true
    grefs.imported()
    assert grefs.train().targets[2].ann_ids == ()
    grefs.out = grefs.out.with_name("again")
    grefs.refs[2]["no_target"] = False
    with pytest.raises(InputError, match=r"(?s)not as their format says \(1\).*row 2: ann_id"):
        grefs.imported()


@pytest.mark.parametrize("segmentation", [None, []])
def test_objects_with_only_boxes_are_refused(tmp_path: Path, segmentation: Any) -> None:
    tiny, coco = TinyDataset(tmp_path / "a"), Instances(tmp_path / "b")
    for row in tiny.instances["annotations"] + coco.said["annotations"]:
        row.update(segmentation=segmentation, bbox=[10, 10, 10, 10])
    tiny.write()
    for made in (tiny, coco):
        with pytest.raises(InputError, match=r"objects that have a box and no mask; .*\(3\)"):
            made.imported()


@pytest.mark.parametrize(
    "segmentation", [[[10, 10, 20, 10, 20, 20, 10, 20]], [[10, 10, 10, 20, 20, 20, 20, 10]]]
)
def test_masks_that_all_equal_their_boxes_are_reported(tmp_path: Path, segmentation: Any) -> None:
    tiny, coco = TinyDataset(tmp_path / "a"), Instances(tmp_path / "b")
    for row in tiny.instances["annotations"] + coco.said["annotations"]:
        row.update(segmentation=segmentation, bbox=[10, 10, 10.0, 10])
    tiny.write()
    for made in (tiny, coco):
        assert [line for line in made.imported().warnings() if "every mask is the box" in line]
    tiny.annotation(102)["segmentation"] = [RIGHT]
    tiny.write()
    tiny.out = tiny.out.with_name("again")
    assert tiny.imported().warnings() == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bbox": [1, 2, 3, 4]}, "it has a box (`bbox`) and no mask"),
        ({"mask": [10, 10, 20, 20]}, "it is four numbers, as of a box, and no mask"),
    ],
)
def test_a_line_with_a_box_is_reported(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    photos = Photos(tmp_path)
    photos.lines.append({"image": "2.png", "sentence": "boxed", **keys})
    with pytest.raises(InputError) as caught:
        photos.imported()
    assert f"people.jsonl:6: {message}" in str(caught.value).replace("Value error, ", "")


# Mask files

LABELS = np.zeros((40, 60), np.uint8)
LABELS[5:15, 30:40] = 1
LABELS[5:15, 40:50] = 2
LABELS[20:22, 0:60] = 255
VOC = np.where(LABELS == 2, 0, LABELS)
SOFT = np.zeros((40, 60), np.uint8)
SOFT[5:15, 30:50] = 255
SOFT[5:15, 29], SOFT[5:15, 50] = 127, 128


def with_png(folder: Path, pixels: np.ndarray, mask: Any = "cup.png") -> Photos:
    photos = Photos(folder)
    Image.fromarray(pixels).save(photos.root / "cup.png")
    photos.lines = [{"image": "2.png", "sentence": "it", "mask": mask}]
    return photos


@pytest.mark.parametrize(
    ("pixels", "rule", "expected", "dropped"),
    [
        (LABELS > 0, None, LABELS > 0, {}),
        (np.where(LABELS == 2, 2, 0).astype(np.uint8), None, LABELS == 2, {}),
        (np.where(LABELS > 0, 255, 0).astype(np.uint8), None, LABELS > 0, {}),
        (np.where(LABELS > 0, 65535, 0).astype(np.uint16), None, LABELS > 0, {}),
        (np.full((40, 60), 9, np.uint8), None, np.ones((40, 60), bool), {}),
        (VOC, None, VOC == 1, {"void": (1, 120)}),
        (LABELS, "nonzero", LABELS > 0, {}),
        (LABELS, "void", (LABELS == 1) | (LABELS == 2), {"void": (1, 120)}),
        (VOC, "nonzero", VOC > 0, {}),
        (SOFT, "soft", SOFT >= 128, {"soft": (1, 10)}),
        (SOFT.astype(np.uint16) * 257, "soft", SOFT >= 128, {"soft": (1, 10)}),
        (SOFT > 127, "soft", SOFT >= 128, {}),
    ],
)
def test_a_mask_files_values_mean_what_they_tell_or_what_is_said(
    tmp_path: Path, pixels: np.ndarray, rule: Any, expected: np.ndarray, dropped: dict[str, tuple[int, int]]
) -> None:
    photos = with_png(tmp_path, pixels)
    report = photos.imported(mask_values=rule)
    np.testing.assert_array_equal(photos.record("train").targets[0].mask.decode(), expected)
    counted = {what: (one.files, one.pixels) for what, one in report.info.dropped_pixels.items()}
    assert counted == dropped
    warned = [line for line in report.warnings() if "count as outside" in line]
    for line, (files, count) in zip(warned, dropped.values(), strict=True):
        assert f"{count} pixels of {files} mask files" in line
    assert ImportedDataset(photos.out).info == report.info


@pytest.mark.parametrize(
    ("pixels", "listed"),
    [
        (LABELS, "0, 1, 2, 255"),
        (np.where(LABELS == 255, 0, LABELS), "0, 1, 2"),
        (SOFT, "0, 127, 128, 255"),
        (np.where(LABELS > 0, 2, 1).astype(np.uint8), "1, 2"),
        (np.arange(2400).reshape(40, 60).astype(np.uint8), "0, 1, 2, 3, 4, 5, 6, 7 and 248 more"),
    ],
    ids=["an index an object", "no void", "soft", "no outside", "a picture"],
)
def test_values_that_do_not_tell_are_asked_for(tmp_path: Path, pixels: np.ndarray, listed: str) -> None:
    photos = with_png(tmp_path, pixels)
    with pytest.raises(InputError) as caught:
        photos.imported()
    message = str(caught.value)
    assert f"cup.png has the values {listed}, which do not tell what is inside: with `mask_values`" in message


@pytest.mark.parametrize(
    ("value", "expected"), [(2, LABELS == 2), ([1, 2], (LABELS == 1) | (LABELS == 2)), (255, LABELS == 255)]
)
def test_an_object_of_a_file_of_several_is_named_by_its_value(
    tmp_path: Path, value: Any, expected: np.ndarray
) -> None:
    photos = with_png(tmp_path, LABELS, {"file": "cup.png", "value": value})
    report = photos.imported()
    np.testing.assert_array_equal(photos.record("train").targets[0].mask.decode(), expected)
    assert report.info.dropped_pixels == {}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"file": "cup.png", "value": 3}, "cup.png has no pixel of 3; it has 0, 1, 2, 255"),
        ({"file": "cup.png", "value": 0.5}, "value"),
        ({"file": "cup.png", "values": 1}, "values: Extra inputs are not permitted"),
        ("/etc/hosts", "'/etc/hosts' is one of the image paths that leave the image folder"),
        ("../photos/cup.png", "'../photos/cup.png' is one of the image paths that leave the image folder"),
    ],
)
def test_a_mask_file_that_cannot_be_meant_is_named(tmp_path: Path, mask: Any, message: str) -> None:
    photos = with_png(tmp_path, LABELS, mask)
    with pytest.raises(InputError) as caught:
        photos.imported()
    assert message in str(caught.value)


def test_the_command_takes_the_rule_and_tells_what_was_dropped(tmp_path: Path) -> None:
    photos = with_png(tmp_path, SOFT)
    photos.write()
    command = ["import", str(photos.root), "people.jsonl", "--out", str(photos.out), "--mask-values", "soft"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "warning: 10 pixels of 1 mask files are darker than half of white" in result.output
