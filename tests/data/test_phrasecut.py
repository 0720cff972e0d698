"""PhraseCut's published format, and masks as its own evaluation draws them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.forms.phrasecut import draw_instances
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.published import PUBLISHED, verdict
from maris_fast.data_shards.records import ImportedDataset, SplitCounts
from maris_fast.errors import InputError
from tests.data.builders import HEIGHT, WIDTH, Phrases


@pytest.fixture
def phrases(tmp_path: Path) -> Phrases:
    return Phrases(tmp_path)


def test_phrases_become_records_with_their_structure(phrases: Phrases) -> None:
    report = phrases.imported()
    assert report.info.splits == {
        "val": SplitCounts(refs=3, sentences=3, images=2),
        "miniv": SplitCounts(refs=1, sentences=1, images=1),
    }
    assert not report.info.coco_annotations
    seven, dog = ImportedDataset(phrases.out).records("val")
    assert [record.image_id for record in (seven, dog)] == [7, 2316003]
    assert [(e.text, e.kind, e.target) for e in dog.expressions] == [
        ("white dog", "attribute", 0),
        ("man riding horse", "relation", 1),
    ]
    assert [target.category for target in dog.targets] == ["dog", "man"]
    assert dog.targets[0].ann_ids == (231600300, 231600301)
    assert (dog.image, dog.coco_id, seven.coco_id) == ("2316003.jpg", 581_000, None)


def test_ids_are_places_in_the_file_so_that_task_ids_can_be_looked_up(phrases: Phrases) -> None:
    phrases.imported()
    for record in ImportedDataset(phrases.out).records("val"):
        for expression in record.expressions:
            task = phrases.tasks["val"][expression.sent_id]
            assert (task["phrase"], task["image_id"]) == (expression.text, record.image_id)
            assert record.targets[expression.target].ref_id == expression.sent_id


def test_a_mask_is_all_instances_with_corners_cut_to_integers_and_their_outline(phrases: Phrases) -> None:
    phrases.imported()
    _, dog = ImportedDataset(phrases.out).records("val")
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[10:21, 10:21] = True  # 10 to 20 with the outline; truncated from 10.2, 20.7 and 20.9
    for y in range(5, 16):
        expected[y, 40 + (y - 5) : 51] = True
    np.testing.assert_array_equal(dog.targets[0].mask.decode(), expected)
    assert dog.targets[1].area == 11 * 11


def as_published(instances: list[list[list[list[float]]]], height: int, width: int) -> np.ndarray:
    """The steps of PhraseCut's utils/evaluator.py: all polygons in one list, one picture each, summed."""
    whole = np.zeros((height, width))
    for polygon in (polygon for instance in instances for polygon in instance):
        if len(polygon) < 2:
            continue
        picture = Image.new("L", (width, height), 0)
        ImageDraw.Draw(picture).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
        whole += np.array(picture)
    return whole > 0


corners = st.lists(st.floats(-10, 80).map(lambda v: round(v, 2)), min_size=2, max_size=2)


@given(st.lists(st.lists(st.lists(corners, max_size=6), max_size=3), max_size=3))
def test_any_polygons_are_drawn_as_published(instances: list[list[list[list[float]]]]) -> None:
    ours = draw_instances(instances, HEIGHT, WIDTH)
    np.testing.assert_array_equal(ours > 0, as_published(instances, HEIGHT, WIDTH))


def test_only_the_splits_asked_for_are_read(phrases: Phrases) -> None:
    (phrases.place / "images" / "7.jpg").unlink()
    assert list(phrases.imported(splits=["miniv"]).info.splits) == ["miniv"]


def test_a_phrase_without_structure_has_neither_kind_nor_category(phrases: Phrases) -> None:
    phrases.tasks["miniv"][0]["phrase_structure"] = {}
    phrases.imported(splits=["miniv"])
    (record,) = ImportedDataset(phrases.out).records("miniv")
    assert record.expressions[0].kind is None
    assert record.targets[0].category == ""


def test_the_older_name_of_the_image_list_is_read(phrases: Phrases) -> None:
    phrases.write()
    (phrases.place / "image_data_split.json").rename(phrases.place / "image_data_split3000.json")
    assert import_dataset(phrases.root, "phrasecut", phrases.out).info.splits["val"].images == 2


def test_progress_goes_over_images_and_phrases(phrases: Phrases) -> None:
    calls: list[tuple[int, int]] = []
    phrases.imported(splits=["val"], progress=lambda *done: calls.append(done))
    assert calls == [(1, 5), (2, 5), (3, 5), (5, 5)]


def test_images_may_lie_in_visual_genomes_two_folders(phrases: Phrases) -> None:
    before = phrases.imported().info
    images = phrases.place / "images"
    for number, path in enumerate(sorted(images.glob("*.jpg"))):
        folder = images / ("VG_100K", "VG_100K_2")[number % 2]
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    phrases.out = phrases.out.with_name("again")
    assert phrases.imported().info.splits == before.splits
    dataset = ImportedDataset(phrases.out)
    named = {one.image for split in before.splits for one in dataset.records(split)}
    assert {name.split("/")[0] for name in named} == {"VG_100K", "VG_100K_2"}
    assert all((images / name).is_file() for name in named)


def test_counts_are_judged_against_the_published_ones() -> None:
    published = PUBLISHED["phrasecut", "official"]
    assert sum(published[split].sentences for split in ("train", "val", "test")) == 345_486
    assert sum(published[split].images for split in ("train", "val", "test")) == 77_262
    assert verdict("phrasecut", "official", "miniv", published["miniv"]) == "equal"


def missing_image(phrases: Phrases) -> None:
    (phrases.place / "images" / "7.jpg").unlink()


def another_size(phrases: Phrases) -> None:
    phrases.images[1]["width"] = 61


def truncated_image(phrases: Phrases) -> None:
    path = phrases.place / "images" / "7.jpg"
    os.truncate(path, path.stat().st_size // 2)


def image_not_listed(phrases: Phrases) -> None:
    del phrases.images[1]


def image_of_another_split(phrases: Phrases) -> None:
    phrases.images[1]["split"] = "train"


def empty_phrase(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["phrase"] = " "


def no_polygon(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["Polygons"] = []


def polygons_off_the_image(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["Polygons"] = [[[[90, 90], [99, 90], [99, 99]]]]


def polygons_flat_as_cocos(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["Polygons"] = [[[1, 1, 5, 1, 5, 5]]]


def polygons_of_text(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["Polygons"] = [[[["a", "b"], ["c", "d"]]]]


def polygons_without_number(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["Polygons"] = [[[[float("nan"), 1], [2, 2]]]]


def no_ann_ids(phrases: Phrases) -> None:
    phrases.tasks["val"][1]["ann_ids"] = []


def input_files_alone(phrases: Phrases) -> None:
    for task in phrases.tasks["val"]:
        del task["Polygons"]


def no_phrases(phrases: Phrases) -> None:
    phrases.tasks["val"] = []


def tasks_by_id(phrases: Phrases) -> None:
    phrases.tasks["val"] = {"1": phrases.tasks["val"][0]}  # type: ignore[assignment]


def images_by_id(phrases: Phrases) -> None:
    phrases.images = {"7": phrases.images[0]}  # type: ignore[assignment]


def no_image_folder(phrases: Phrases) -> None:
    (phrases.place / "images").rename(phrases.place / "VG_100K")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing_image, r"missing images.*image 7: .*7\.jpg"),
        (another_size, r"another size.*image 7: .*is 60 x 40, annotated 61 x 40"),
        (truncated_image, r"cannot be read to their end.*image 7"),
        (image_not_listed, r"image_data_split\.json lacks.*val 1: image 7"),
        (image_of_another_split, r"another split.*val 1: image 7 is of train"),
        (empty_phrase, r"empty sentences.*val 1, image 7"),
        (no_polygon, r"have a box and no mask.*val 1, image 7: 'wall'"),
        (polygons_off_the_image, r"no pixel.*val 1, image 7"),
        (polygons_flat_as_cocos, r"cannot be drawn.*val 1, image 7: 'wall': .*int"),
        (polygons_of_text, r"cannot be drawn.*val 1.*'a'"),
        (polygons_without_number, r"cannot be drawn.*val 1.*NaN"),
        (no_ann_ids, r"without ann_ids.*val 1"),
        (input_files_alone, r"not as their format says \(3\).*row 0: Polygons.*row 2: Polygons"),
        (no_phrases, r"refer_val\.json holds no phrases"),
        (tasks_by_id, r"refer_val\.json is not a list of phrases"),
        (images_by_id, r"image_data_split\.json is not the list of images"),
        (no_image_folder, r"no images below .*phrasecut/images.*`images`"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    phrases: Phrases, damage: Callable[[Phrases], None], message: str
) -> None:
    damage(phrases)
    with pytest.raises(InputError, match=f"(?s){message}"):
        phrases.imported()
    assert not list(phrases.out.parent.iterdir())


def test_files_that_are_not_there_or_cut_are_named(phrases: Phrases) -> None:
    phrases.write()
    os.truncate(phrases.place / "refer_val.json", 100)
    with pytest.raises(InputError, match=r"refer_val\.json.*JSON"):
        import_dataset(phrases.root, "phrasecut", phrases.out)
    (phrases.place / "image_data_split.json").unlink()
    with pytest.raises(InputError, match=r"no file .*image_data_split\.json"):
        import_dataset(phrases.root, "phrasecut", phrases.out)
    with pytest.raises(InputError, match=r"no folder .*nothing; data sets below .*: phrasecut"):
        import_dataset(phrases.root, "nothing", phrases.out)
    with pytest.raises(InputError, match=r"no split 'vall'.*did you mean 'val'"):
        import_dataset(phrases.root, "phrasecut", phrases.out, ImportOptions(splits=["vall"]))
    assert not list(phrases.out.parent.iterdir())
