"""Unusable rows are refused by default, and left out, counted and named on request."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.left_out import LISTING, LeftOutRow
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.published import PUBLISHED
from maris_fast.data_shards.records import DatasetInfo, ImportedDataset, LeftOut, LostCounts
from maris_fast.errors import InputError
from tests.data.builders import (
    FAR,
    SQUARE,
    Builder,
    Grefs,
    Instances,
    Photos,
    Phrases,
    TinyDataset,
    good_coco,
    good_photos,
    good_phrases,
    good_refcoco,
)

LINE = [[10, 10, 20, 10]]
"""A polygon with only two corners."""


@dataclass
class Case:
    """Data of one format: how good data is created, which bad rows are added, and the expected result."""

    good: Callable[[Path], Builder]
    add_bad: Callable[[Any], None]
    left_out: dict[tuple[str, str], str]
    """Expected reason by split and row."""
    lost: dict[str, tuple[int, int]]
    """Expected numbers of lost expressions and images by split."""


def cut(image: Path) -> None:
    os.truncate(image, image.stat().st_size // 2)


def add_images(tiny: TinyDataset) -> None:
    """Add image 80, which is missing, and 81, which is truncated; each has a valid annotation of its id."""
    for image_id in (80, 81):
        name = tiny.image(image_id).name
        tiny.instances["images"].append({**tiny.instances["images"][0], "id": image_id, "file_name": name})
        row = {"id": image_id, "image_id": image_id, "category_id": 1, "segmentation": [SQUARE]}
        tiny.instances["annotations"].append(row)
    tiny.image(81).write_bytes(tiny.image(7).read_bytes())
    cut(tiny.image(81))


def bad_refcoco(tiny: TinyDataset) -> None:
    add_images(tiny)
    tiny.instances["annotations"].append(
        {"id": 90, "image_id": 7, "category_id": 1, "segmentation": LINE},
    )
    tiny.refs[1]["sentences"].insert(1, {"sent_id": 119, "sent": " "})
    tiny.refs[:0] = [
        TinyDataset.ref(31, 90, 7, "train", "two corners", " "),
        TinyDataset.ref(33, 999, 7, "train", "no such annotation"),
        TinyDataset.ref(34, 80, 80, "val", "missing", "gone"),
        TinyDataset.ref(35, 81, 81, "train", "cut"),
        TinyDataset.ref(36, 103, 3, "val", " "),
        TinyDataset.ref(37, 101, 99, "val", "unknown image"),
    ]


REFCOCO = Case(
    good_refcoco,
    bad_refcoco,
    {
        ("train", "ref 31"): "annotations without a usable mask",
        ("train", "ref 33"): "refs to annotations or categories that instances.json lacks",
        ("train", "ref 35"): "images that cannot be read to their end",
        ("train", "ref 11, sentence 119"): "empty sentences",
        ("val", "ref 34"): "missing images",
        ("val", "ref 36, sentence 360"): "empty sentences",
        ("val", "ref 37"): "refs to images that instances.json lacks",
    },
    {"train": (5, 1), "val": (4, 2)},
)


def bad_grefcoco(grefs: Grefs) -> None:
    one, two, other = grefs.objects[0]["id"], grefs.objects[1]["id"], grefs.others[0]["id"]
    grefs.instances["annotations"].append({**grefs.annotation(one), "id": 1, "segmentation": LINE})
    grefs.instances["images"].append({**grefs.instances["images"][0], "id": 80, "file_name": "gone.jpg"})
    grefs.refs[:0] = [
        grefs.ref(31, [two, 1], grefs.first, "train", "one of two has no mask"),
        grefs.ref(32, [999, 1], grefs.first, "train", "two faults"),
        grefs.ref(33, [-1], grefs.second, "val", ""),
        grefs.ref(34, [-1], 80, "val", "nobody on no image"),
        grefs.ref(35, [other, one], grefs.second, "train", "of two images"),
    ]


GREFCOCO = Case(
    Grefs,
    bad_grefcoco,
    {
        ("train", "ref 31"): "annotations without a usable mask",
        ("train", "ref 32"): "refs to annotations or categories that instances.json lacks",
        ("train", "ref 35"): "refs to an annotation of another image",
        ("val", "ref 33, sentence 330"): "empty sentences",
        ("val", "ref 34"): "missing images",
    },
    {"train": (3, 1), "val": (2, 1)},
)


def bad_phrases(phrases: Phrases) -> None:
    phrases.images += [phrases.image(80, "val", None), phrases.image(81, "val", None)]
    phrases.images += [phrases.image(82, "train", None)]
    (phrases.place / "images" / "80.jpg").unlink()
    cut(phrases.place / "images" / "81.jpg")
    bad = [
        phrases.task(80, "missing", [[FAR]], "name", "a"),
        phrases.task(81, "cut", [[FAR]], "name", "a"),
        phrases.task(82, "train's", [[FAR]], "name", "a"),
        phrases.task(83, "not listed", [[FAR]], "name", "a"),
        phrases.task(7, " ", [[FAR]], "name", "a"),
        phrases.task(7, "a corner alone", [[[[1, 1]]]], "name", "a"),
        phrases.task(7, " ", [[[["a", "b"], ["c", "d"]]]], "name", "a"),
    ]
    phrases.tasks["val"] += bad


PHRASECUT = Case(
    good_phrases,
    bad_phrases,
    {
        ("val", "phrase 8"): "missing images",
        ("val", "phrase 9"): "images that cannot be read to their end",
        ("val", "phrase 10"): "phrases of another split than their image has in image_data_split.json",
        ("val", "phrase 11"): "phrases on images that image_data_split.json lacks",
        ("val", "phrase 12"): "empty sentences",
        ("val", "phrase 13"): "phrases whose polygons have no pixel in the image",
        ("val", "phrase 14"): "phrases whose polygons cannot be drawn",
    },
    {"val": (7, 4)},
)


def bad_photos(photos: Photos) -> None:
    (photos.root / "cut.jpg").write_bytes((photos.root / "kitchen" / "1.jpg").read_bytes())
    cut(photos.root / "cut.jpg")
    objects = [{"sentences": ["x", "y"], "mask": LINE}, {"sentence": " ", "mask": None}]
    photos.lines[1]["sentences"].insert(1, " ")
    photos.lines[:0] = [
        '{"image": ',
        {"image": "kitchen/1.jpg", "sentense": "mug", "mask": None, "split": "val"},
        {"image": "kitchen/1.jpg", "sentence": "two corners", "mask": LINE},
        {"image": "gone.jpg", "sentences": ["a", "b"], "mask": None},
        {"image": "cut.jpg", "sentence": "cut", "mask": None, "split": "val"},
        {"image": "kitchen/1.jpg", "width": 61, "sentence": "wide", "mask": None},
        {"image": "2.png", "objects": objects},
        {"image": "gone.jpg", "objects": []},
    ]


JSONL = Case(
    good_photos,
    bad_photos,
    {
        ("?", "line 1"): "lines that are not as docs/datasets.md says",
        ("val", "line 2"): "lines that are not as docs/datasets.md says",
        ("train", "line 3"): "objects without a usable mask",
        ("train", "line 4"): "missing images",
        ("val", "line 5"): "images that cannot be read to their end",
        ("train", "line 6"): "images of another size than their line says",
        ("train", "line 7, object 1"): "objects without a usable mask",
        ("train", "line 7, object 2"): "empty sentences",
        ("train", "line 8"): "missing images",
        ("train", "line 10"): "empty sentences",
    },
    {"?": (1, 0), "train": (8, 2), "val": (2, 1)},  # train loses 2.png and gone.jpg entirely
)


def bad_coco(coco: Instances) -> None:
    coco.said["images"].append({**coco.said["images"][1], "id": 80, "file_name": "gone.png"})
    coco.said["annotations"] += [
        coco.annotation(70, 5, caption=" "),
        {**coco.annotation(71, 5, caption="two corners"), "segmentation": LINE},
        coco.annotation(72, 80, sentences=["gone", "away"]),
        coco.annotation(73, 99, caption="unknown image, so unknown split"),
        {**coco.annotation(74, 5, caption="unknown category"), "category_id": 99},
    ]


COCO = Case(
    good_coco,
    bad_coco,
    {
        ("train", "ref 70, sentence 10"): "empty sentences",
        ("train", "ref 71"): "annotations without a usable mask",
        ("val", "ref 72"): "missing images",
        ("?", "ref 73"): "refs to images that instances.json lacks",
        ("train", "ref 74"): "refs to annotations or categories that instances.json lacks",
    },
    {"train": (3, 0), "val": (2, 1), "?": (1, 1)},
)

CASES = [
    pytest.param(REFCOCO, id="refcoco"),
    pytest.param(GREFCOCO, id="grefcoco"),
    pytest.param(PHRASECUT, id="phrasecut"),
    pytest.param(JSONL, id="jsonl"),
    pytest.param(COCO, id="coco"),
]


def written(made: Builder, **options: Any) -> ImportReport:
    made.write()
    return made.imported(**options)


def damaged(case: Case, folder: Path) -> Builder:
    made = case.good(folder)
    case.add_bad(made)
    return made


def listing(out: Path) -> list[LeftOutRow]:
    return [LeftOutRow.model_validate_json(line) for line in (out / LISTING).read_text().splitlines()]


@pytest.mark.parametrize("case", CASES)
def test_what_is_left_is_the_import_of_the_good_rows_alone(case: Case, tmp_path: Path) -> None:
    good, made = case.good(tmp_path / "good"), damaged(case, tmp_path / "bad")
    whole, report = written(good), written(made, leave_out_bad=True)
    assert report.info.splits == whole.info.splits
    for split in whole.info.splits:
        same = [(one.out / f"{split}.jsonl").read_bytes() for one in (made, good)]
        assert same[0] == same[1]


@pytest.mark.parametrize("case", CASES)
def test_each_row_that_is_left_out_is_named_with_its_reason_and_counted(case: Case, tmp_path: Path) -> None:
    made = damaged(case, tmp_path)
    report = written(made, leave_out_bad=True)
    rows = listing(made.out)
    assert {(row.split, row.row): row.reason for row in rows} == case.left_out
    assert len(rows) == len(case.left_out)
    for row in rows:
        assert row.detail
        assert any(made.out.parent.parent.rglob(row.file))
    lost = report.info.left_out
    assert {split: (out.expressions, out.images) for split, out in lost.items()} == case.lost
    for split, out in lost.items():
        of_split = [row for row in rows if row.split == split]
        assert out.rows == len(of_split)
        assert out.expressions == sum(row.expressions for row in of_split)
        assert {reason: of_it.rows for reason, of_it in out.reasons.items()} == Counter(
            row.reason for row in of_split
        )
        assert sum(of_it.expressions for of_it in out.reasons.values()) == out.expressions
    assert ImportedDataset(made.out).info == report.info


@pytest.mark.parametrize("case", CASES)
def test_by_default_the_import_is_refused_with_every_reason_and_the_way_out(
    case: Case, tmp_path: Path
) -> None:
    made = damaged(case, tmp_path)
    with pytest.raises(InputError) as caught:
        written(made)
    for reason in case.left_out.values():
        assert reason in str(caught.value)
    assert "`leave_out_bad` leaves such rows out instead" in str(caught.value)
    assert not list(made.out.parent.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_an_import_without_bad_rows_is_the_same_with_the_option(case: Case, tmp_path: Path) -> None:
    files = []
    for folder, options in ((tmp_path / "a", {}), (tmp_path / "b", {"leave_out_bad": True})):
        made = case.good(folder)
        assert written(made, **options).warnings() == []
        files.append({path.name: path.read_text().replace(str(folder), "") for path in made.out.iterdir()})
    assert files[0] == files[1]
    assert LISTING not in files[0]


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_import_leaves_nothing_behind(case: Case, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    made = damaged(case, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        written(made, leave_out_bad=True, progress=interrupt)
    assert not list(made.out.parent.iterdir())


EMPTY = "refs without a sentence"


def with_empty_refs(grefs: Grefs) -> Grefs:
    """As in the released gRefCOCO; no loader that reads by sentence notices what is wrong with these."""
    grefs.instances["images"].append({**grefs.instances["images"][0], "id": 80, "file_name": "gone.jpg"})
    grefs.refs[1:1] = [
        grefs.ref(40, [999], grefs.first, "train"),
        grefs.ref(41, [-1], 80, "val"),
        grefs.ref(1, [-1], 81, "train"),
    ]
    return grefs


def test_refs_without_a_sentence_are_left_out_and_listed_without_the_option(tmp_path: Path) -> None:
    good, made = Grefs(tmp_path / "good"), with_empty_refs(Grefs(tmp_path / "bad"))
    whole, report = written(good), written(made)
    assert report.info.splits == whole.info.splits
    for split in whole.info.splits:
        same = [(one.out / f"{split}.jsonl").read_bytes() for one in (made, good)]
        assert same[0] == same[1]
    rows = [(row.split, row.row, row.image, row.reason) for row in listing(made.out)]
    assert rows == [
        ("train", "ref 40", made.instances["images"][0]["file_name"], EMPTY),
        ("val", "ref 41", "gone.jpg", EMPTY),
        ("train", "ref 1", "image 81", EMPTY),
    ]
    lost = {split: (out.rows, out.expressions, out.images) for split, out in report.info.left_out.items()}
    assert lost == {"train": (2, 0, 1), "val": (1, 0, 1)}
    assert report.warnings() == [f"each row that is left out is named in {made.out / LISTING}"]
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report.table(), report.left_out_table())
    assert f"│ {EMPTY} │    2 │           0 │      1 │" in (told := console.export_text())
    assert "NOT COMPLETE" not in told


def test_the_other_files_of_refs_may_have_refs_without_a_sentence_too(tmp_path: Path) -> None:
    tiny = good_refcoco(tmp_path)
    tiny.refs.append(TinyDataset.ref(40, 101, 7, "train"))
    assert [row.row for row in listing(written(tiny).folder)] == ["ref 40"]


def test_refs_without_a_sentence_are_no_reason_for_a_refusal_but_are_counted_beside_one(
    tmp_path: Path,
) -> None:
    grefs = with_empty_refs(Grefs(tmp_path))
    grefs.refs.append(grefs.ref(50, [999], grefs.first, "train", "of nothing"))
    with pytest.raises(InputError, match="ref 50") as refused:
        written(grefs)
    assert EMPTY not in str(refused.value)
    assert {row.row for row in listing(written(grefs, leave_out_bad=True).folder)} == {
        *("ref 40", "ref 41", "ref 1", "ref 50")
    }


def test_refs_that_mostly_have_no_sentence_are_refused(tmp_path: Path) -> None:
    grefs = Grefs(tmp_path)
    grefs.refs += [grefs.ref(60 + i, [-1], grefs.second, "val") for i in range(3)]
    told = rf"(?s)3 of 5 expressions of val would be left out, more than 50%.*{EMPTY} \(3\):.*ref 60"
    with pytest.raises(InputError, match=told):
        written(grefs)
    assert not list(grefs.out.parent.iterdir())


def test_rows_of_splits_that_are_not_asked_for_are_not_counted(tmp_path: Path) -> None:
    photos = good_photos(tmp_path)
    bad_photos(photos)
    info = written(photos, leave_out_bad=True, splits=["train"]).info
    assert info.left_out.keys() == {"train", "?"}
    assert info.left_out["train"].expressions == JSONL.lost["train"][0]


def test_an_image_that_one_split_lacks_is_counted_there_alone(tmp_path: Path) -> None:
    tiny = good_refcoco(tmp_path)
    tiny.refs.append(TinyDataset.ref(40, 999, 7, "val", "another's annotation"))
    lost = written(tiny, leave_out_bad=True).info.left_out
    assert lost == {
        "val": LeftOut(
            rows=1,
            expressions=1,
            images=1,
            reasons={
                "refs to annotations or categories that instances.json lacks": LostCounts(
                    rows=1, expressions=1, images=1
                )
            },
        )
    }


def test_an_invalid_row_is_refused_with_the_option_too(tmp_path: Path) -> None:
    tiny, phrases = good_refcoco(tmp_path / "a"), good_phrases(tmp_path / "b")
    tiny.refs = {"refs": tiny.refs}  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"is not a list of refs.* it holds no list, but dict"):
        written(tiny, leave_out_bad=True)
    phrases.write()
    cut(phrases.place / "image_data_split.json")
    with pytest.raises(InputError, match=r"image_data_split\.json.*JSON"):
        import_dataset(phrases.root, "phrasecut", phrases.out, ImportOptions(leave_out_bad=True))
    for made in (tiny, phrases):
        assert not list(made.out.parent.iterdir())


def test_more_than_half_of_a_split_is_never_left_out(tmp_path: Path) -> None:
    photos = good_photos(tmp_path)
    other = {"image": "2.png", "split": "test", "mask": LINE}
    photos.lines += [{**other, "sentence": "one", "mask": None}, {**other, "sentence": "two"}]
    assert written(photos, leave_out_bad=True).info.left_out["test"].expressions == 1  # half
    photos.lines += [{**other, "sentence": "three"}]
    photos.out = photos.out.with_name("again")
    said = (
        r"(?s)2 of 3 expressions of test would be left out, more than 50%.*nothing was written.*"
        r"usable mask \(2\).*people\.jsonl:8.*people\.jsonl:9.*"
        rf"check that {photos.root}/people\.jsonl .*{photos.root} is the folder.*\(`images`\)"
    )
    with pytest.raises(InputError, match=said):
        written(photos, leave_out_bad=True)
    photos.lines = ["no JSON", "at all"]
    with pytest.raises(InputError, match=r"2 of 2 expressions of all splits would be left out"):
        written(photos, leave_out_bad=True)
    assert [path.name for path in photos.out.parent.iterdir()] == ["imported"]


GOOD_LINES: list[Any] = [
    {"image": "kitchen/1.jpg", "sentence": "mug", "mask": [SQUARE]},
    {"image": "2.png", "sentences": ["cup", "left cup"], "mask": "cup.png"},
    {"image": "2.png", "split": "val", "sentence": "none", "mask": None},
    {"image": "kitchen/1.jpg", "split": "val", "objects": [{"sentences": ["a", "b"], "mask": [SQUARE]}]},
]
BAD_LINES: list[tuple[Any, str, int]] = [
    ("{", "?", 1),
    ([1], "?", 1),
    ({"image": "2.png", "split": "../val", "sentence": "x", "mask": None}, "?", 1),
    ({"image": "2.png", "split": "val", "sentence": "x"}, "val", 1),
    ({"image": "gone.png", "sentences": ["x", "y"], "mask": None}, "train", 2),
    ({"image": "cut.jpg", "split": "val", "sentence": "x", "mask": [SQUARE]}, "val", 1),
    ({"image": "kitchen/1.jpg", "sentence": "x", "mask": LINE}, "train", 1),
    ({"image": "kitchen/1.jpg", "sentence": "\t", "mask": [SQUARE]}, "train", 1),
    ({"image": "../2.png", "split": "val", "sentence": "x", "mask": None}, "val", 1),
    ({"image": "2.png", "height": 1, "sentence": "x", "mask": None}, "train", 1),
]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    good=st.lists(st.sampled_from(GOOD_LINES), min_size=3, max_size=10),
    bad=st.lists(st.tuples(st.integers(0, 10), st.sampled_from(BAD_LINES)), max_size=6),
)
def test_any_bad_lines_anywhere_change_nothing_but_the_account(
    tmp_path_factory: pytest.TempPathFactory, good: list[Any], bad: list[tuple[int, tuple[Any, str, int]]]
) -> None:
    folder = tmp_path_factory.mktemp("own")
    without, photos = Photos(folder / "good"), Photos(folder / "bad")
    without.lines, photos.lines = good, list(good)
    (photos.root / "cut.jpg").write_bytes((photos.root / "kitchen" / "1.jpg").read_bytes())
    cut(photos.root / "cut.jpg")
    lost: Counter[str] = Counter()
    for place, (line, split, expressions) in bad:
        photos.lines.insert(place, line)
        lost[split] += expressions
    photos.lines = [line if isinstance(line, str) else copy.deepcopy(line) for line in photos.lines]
    whole = without.imported().info
    kept = Counter({split: counts.sentences for split, counts in whole.splits.items()})
    too_many = lost.total() > kept.total() or any(
        number > kept[split] for split, number in lost.items() if split != "?"
    )
    if too_many:
        with pytest.raises(InputError, match="would be left out"):
            photos.imported(leave_out_bad=True)
        assert not list(photos.out.parent.iterdir())
        return
    info = photos.imported(leave_out_bad=True).info
    assert info.splits == whole.splits
    for split in whole.splits:
        name = f"{split}.jsonl"
        assert (photos.out / name).read_bytes() == (without.out / name).read_bytes()
    assert {split: out.expressions for split, out in info.left_out.items()} == dict(lost)
    if bad:
        assert len(listing(photos.out)) == len(bad)


def test_a_photo_that_exif_turns_is_bad_whichever_of_its_lines_comes_first(tmp_path: Path) -> None:
    photos = good_photos(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(photos.root / "turned.jpg", exif=exif)
    line = {"image": "turned.jpg", "sentence": "x", "mask": [SQUARE]}
    photos.lines += [line, {**line, "width": 1}]
    report = written(photos, leave_out_bad=True)
    assert [row.row for row in listing(photos.out)] == ["line 7", "line 8"]
    photos.lines.append({**line, "width": 60, "height": 40})
    photos.out = photos.out.with_name("again")
    again = written(photos, leave_out_bad=True).info
    assert [row.row for row in listing(photos.out)] == ["line 8"]
    assert again.splits["train"].sentences == report.info.splits["train"].sentences + 2


def test_a_complete_data_set_has_the_head_that_it_had_before_rows_could_be_left_out(tmp_path: Path) -> None:
    """Caches contain it and its checksum."""
    tiny = good_refcoco(tmp_path)
    info = written(tiny, leave_out_bad=True).info
    head = (tiny.out / "dataset.json").read_text()
    since = {"left_out", "dropped_pixels", "masks_are_boxes", "shared"}
    assert json.loads(head).keys() == DatasetInfo.model_fields.keys() - since
    assert DatasetInfo.model_validate_json(head) == info


def test_the_report_says_beside_the_published_counts_what_was_left_out(tmp_path: Path) -> None:
    published = PUBLISHED["refcocog", "umd"]["val"]
    lost = LostCounts(rows=1, expressions=2, images=0)
    info = DatasetInfo(
        name="refcocog",
        split_by="umd",
        image_root="",
        source="",
        splits={
            "train": PUBLISHED["refcocog", "umd"]["train"],
            "val": published.model_copy(update={"sentences": published.sentences - 2}),
        },
        left_out={"val": LeftOut(**lost.model_dump(), reasons={"missing images": lost})},
    )
    report = ImportReport(tmp_path, info)
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report.table(), report.left_out_table())
    text = console.export_text()
    assert "differs by -2 sentences; NOT COMPLETE: 2 sentences, 0 images left out" in text
    assert text.count("NOT COMPLETE") == 1
    assert "missing images" in text
    assert report.warnings() == [
        "warning: val is not complete, 2 of 4,896 expressions (0.04%) and 0 whole images are left out; "
        "scores on it compare neither with published ones nor with those on all of it",
        f"each row that is left out is named in {tmp_path / LISTING}",
    ]
