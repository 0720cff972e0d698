"""Guarantees of the scenes, checked on the files: words, boxes and pixels, not the generator's judgement."""

from __future__ import annotations

import json
import math
import pickle
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.data_shards.synthetic import generate_scenes
from maris_fast.data_shards.synthetic.scene import COLOURS, sample_scene
from maris_fast.errors import InputError
from tests.folders import files_below

TRAIN, VAL, SIZE = 60, 12, 128
SHAPES = {"circle", "square", "bar", "pole"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "root"
    generate_scenes(root, train_images=TRAIN, val_images=VAL, image_size=SIZE, seed=5)
    return root


@pytest.fixture(scope="module")
def imported(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> ImportedDataset:
    out = tmp_path_factory.mktemp("imported")
    import_dataset(scenes, "scenes", out)
    return ImportedDataset(out)


def instances(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "scenes" / "instances.json").read_text())
    return content


@dataclass(frozen=True)
class Thing:
    ann_id: int
    shape: str
    colour: str
    size: str
    x: float
    y: float
    area: int


def things_by_image(root: Path) -> dict[int, list[Thing]]:
    content = instances(root)
    shapes = {row["id"]: row["name"] for row in content["categories"]}
    by_image: dict[int, list[Thing]] = defaultdict(list)
    for row in content["annotations"]:
        left, top, width, height = row["bbox"]
        by_image[row["image_id"]].append(
            Thing(
                row["id"],
                shapes[row["category_id"]],
                row["colour"],
                row["size"],
                left + width / 2,
                top + height / 2,
                row["area"],
            )
        )
    return by_image


SENTENCE = re.compile(
    r"(?:the )?"
    r"(?:(?P<most>leftmost|rightmost|top|bottom|smallest|largest|small|large) )?"
    r"(?:(?P<colour>red|green|blue|yellow|purple|white) )?"
    r"(?P<noun>circle|square|bar|pole|object|one)"
    r"(?: (?P<on>on the left|on the right|at the top|at the bottom))?"
    r"(?: (?P<relation>above|below|to the left of|to the right of) (?P<anchor>the .+))?"
)


def words(sentence: str) -> dict[str, str]:
    match = SENTENCE.fullmatch(sentence)
    assert match, f"not understood: {sentence!r}"
    return {name: value for name, value in match.groupdict().items() if value}


def meant(said: dict[str, str], things: list[Thing], middle: float) -> list[Thing]:
    """All things that the words describe, taken literally."""
    left = [
        thing
        for thing in things
        if said.get("colour") in (None, thing.colour)
        and (said["noun"] in ("object", "one") or said["noun"] == thing.shape)
    ]
    best = {
        "leftmost": lambda thing: thing.x,
        "rightmost": lambda thing: -thing.x,
        "top": lambda thing: thing.y,
        "bottom": lambda thing: -thing.y,
        "smallest": lambda thing: thing.area,
        "largest": lambda thing: -thing.area,
    }
    most = said.get("most")
    if most in best:
        return [thing for thing in left if best[most](thing) == min(map(best[most], left))]
    if most:
        return [thing for thing in left if thing.size == most]
    if "on" in said:
        holds = {
            "on the left": lambda thing: thing.x < middle,
            "on the right": lambda thing: thing.x > middle,
            "at the top": lambda thing: thing.y < middle,
            "at the bottom": lambda thing: thing.y > middle,
        }[said["on"]]
        return [thing for thing in left if holds(thing)]
    if "relation" in said:
        (anchor,) = meant(words(said["anchor"]), things, middle)
        towards = {"to the right of": 0, "below": 90, "to the left of": 180, "above": 270}[said["relation"]]
        return [thing for thing in left if thing != anchor and turned(anchor, thing, towards) <= 46]
    return left


# 46: a relation holds up to 45 degrees between the exact centres, and these are of boxes with rounded sides.
def turned(anchor: Thing, thing: Thing, towards: float) -> float:
    """Degrees between the direction from the anchor and ``towards`` (0 is right, 90 down)."""
    angle = math.degrees(math.atan2(thing.y - anchor.y, thing.x - anchor.x))
    return abs((angle - towards + 180) % 360 - 180)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_every_sentence_means_one_object_and_needs_its_words(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("scenes") / "root"
    generate_scenes(root, train_images=5, val_images=5, image_size=64, seed=seed)
    things = things_by_image(root)
    refs = pickle.loads((root / "scenes" / "refs(synthetic).p").read_bytes())  # noqa: S301 - written above
    for ref in refs:
        scene = things[ref["image_id"]]
        for sentence in ref["sentences"]:
            said = words(sentence["sent"])
            assert [thing.ann_id for thing in meant(said, scene, 32)] == [ref["ann_id"]], sentence["sent"]
            for needed in {
                "colour": ["colour"],
                "shape": ["noun"],
                "colour+shape": ["colour", "noun"],
                "size": ["most"],
                "position": ["most", "on"],
                "relation": ["relation"],
            }[sentence["kind"]]:
                if needed in said:
                    kept = {k: v for k, v in said.items() if k != needed}
                    less = {"noun": "object"} | kept
                    assert len(meant(less, scene, 32)) > 1, f"{sentence['sent']!r} without {needed}"


def test_sentences_are_of_all_kinds_in_like_numbers(imported: ImportedDataset) -> None:
    records = list(imported.records("train"))
    kinds = Counter(expression.kind for record in records for expression in record.expressions)
    assert set(kinds) == {"colour", "shape", "colour+shape", "size", "position", "relation"}
    assert min(kinds.values()) > 0.07 * kinds.total()
    assert max(kinds.values()) < 0.3 * kinds.total()
    assert kinds.total() / len(records) == pytest.approx(7, abs=0.3)
    positions = [
        words(expression.text)
        for record in records
        for expression in record.expressions
        if expression.kind == "position"
    ]
    comparative = sum("most" in position for position in positions) / len(positions)
    assert 0.3 < comparative < 0.7


def test_every_image_has_several_objects_and_more_than_one_is_spoken_of(
    scenes: Path, imported: ImportedDataset
) -> None:
    assert {len(things) for things in things_by_image(scenes).values()} == {3, 4, 5}
    for split in ("train", "val"):
        for record in imported.records(split):
            assert len(record.targets) >= 2
            per_target = Counter(expression.target for expression in record.expressions)
            assert max(per_target.values()) <= 3


def test_scenes_are_imported_like_any_data_set_and_say_that_they_are_synthetic(
    imported: ImportedDataset,
) -> None:
    assert imported.info.synthetic
    assert (imported.info.name, imported.info.split_by) == ("scenes", "synthetic")
    assert {split: counts.images for split, counts in imported.info.splits.items()} == {
        "train": TRAIN,
        "val": VAL,
    }


def test_masks_lie_on_the_objects_pixels(scenes: Path, imported: ImportedDataset) -> None:
    colours = {row["id"]: row["colour"] for row in instances(scenes)["annotations"]}
    forms: set[type] = {type(row["segmentation"]) for row in instances(scenes)["annotations"]}
    assert forms == {list, dict}  # polygons and run lengths
    for record in imported.records("train"):
        picture = np.asarray(Image.open(Path(imported.info.image_root) / record.image)).astype(int)
        for target in record.targets:
            away = np.abs(picture - COLOURS[colours[target.ann_ids[0]]]).max(axis=2)
            inside = target.mask.decode()
            wider = np.zeros_like(inside)
            for dy in (-2, 0, 2):
                for dx in (-2, 0, 2):
                    wider |= np.roll(inside, (dy, dx), axis=(0, 1))
            # The edge is mixed with the background, and JPEG blurs colour over it.
            assert np.median(away[inside]) < 25
            assert np.mean(away[inside] > 70) < 0.2
            rim = wider & ~inside
            assert np.mean(away[rim] < 25) < 0.2


def test_the_same_call_writes_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    generate_scenes(tmp_path / "again", train_images=TRAIN, val_images=VAL, image_size=SIZE, seed=5)
    assert files_below(tmp_path / "again") == files_below(scenes)


def test_an_image_does_not_depend_on_how_many_are_made(scenes: Path, tmp_path: Path) -> None:
    generate_scenes(tmp_path / "few", train_images=3, val_images=2, image_size=SIZE, seed=5)
    many = files_below(scenes)
    few = {name: content for name, content in files_below(tmp_path / "few").items() if name.endswith(".jpg")}
    assert len(few) == 5
    assert few == {name: many[name] for name in few}


def test_train_val_and_other_seeds_are_different_scenes(scenes: Path, tmp_path: Path) -> None:
    generate_scenes(tmp_path / "other", train_images=10, val_images=0, image_size=SIZE, seed=6)
    images = [content for root in (scenes, tmp_path / "other") for content in files_below(root).values()]
    assert len(set(images)) == len(images)


@given(seed=st.integers(0, 2**32))
def test_objects_lie_inside_the_image_and_do_not_touch(seed: int) -> None:
    objects = sample_scene(np.random.default_rng(seed))
    assert 3 <= len(objects) <= 5
    boxes = [np.concatenate([o.outline().min(axis=0), o.outline().max(axis=0)]) for o in objects]
    for i, a in enumerate(boxes):
        assert a.min() > 0
        assert a.max() < 1
        for b in boxes[:i]:
            assert (a[:2] > b[2:]).any() or (b[:2] > a[2:]).any()


def test_a_folder_in_use_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="not empty"):
        generate_scenes(tmp_path / "mine", train_images=1, val_images=1)
    assert files_below(tmp_path) == {"mine/thesis.tex": b"x"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": -1}, "train_images = -1"),
        ({"train_images": 0, "val_images": 0}, "not both 0"),
        ({"image_size": 8}, "image_size = 8"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path: Path, changed: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        generate_scenes(tmp_path / "new", **({"train_images": 1, "val_images": 1} | changed))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_scenes(tmp_path / "new", train_images=3, val_images=1, image_size=64, progress=stop)
    assert not list(tmp_path.iterdir())
