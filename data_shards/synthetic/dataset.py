"""Scenes on disk, in RefCOCO's layout."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maris_fast.data_shards.synthetic.phrasing import Sentence, choose_sentences
from maris_fast.data_shards.synthetic.rendering import render
from maris_fast.data_shards.synthetic.scene import OUTLINES, SceneObject, sample_scene
from maris_fast.errors import InputError
from maris_fast.rle import Rle
from maris_fast.system.new_folder import new_folder

DATASET, SPLIT_BY = "scenes", "synthetic"
IMAGES = Path("images/train2014")
SPLITS = ("train", "val")
FEWEST_KINDS = 4
SPLIT_STRIDE = 1_000_000  # ids of a split start at a multiple, so that they do not depend on the other's size


def generate_scenes(
    root: Path,
    *,
    train_images: int,
    val_images: int,
    image_size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write ``root/scenes`` and ``root/images/train2014``; import them as ``scenes``, split_by ``synthetic``.

    Each image has its own random stream, derived from ``seed``, its split and its number: the same call
    writes the same bytes, and asking for more images does not change the first ones.

    Args:
        root: a new or an empty folder.
        image_size: side in pixels, 64 at least: below that small objects lose their shape.
        progress: called after each image with the number of images done and the total.

    Raises:
        InputError: ``root`` is not empty, or a number is out of range. Nothing is left behind.
    """
    wanted = dict(zip(SPLITS, (train_images, val_images), strict=True))
    if min(wanted.values()) < 0 or max(wanted.values()) >= SPLIT_STRIDE or not any(wanted.values()):
        raise InputError(
            f"train_images = {train_images}, val_images = {val_images}: "
            f"each from 0 to {SPLIT_STRIDE - 1}, and not both 0"
        )
    if image_size < 64:
        raise InputError(f"image_size = {image_size}, but scenes need 64 pixels or more")
    refs: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with new_folder(root) as folder:
        (folder / IMAGES).mkdir(parents=True)
        (folder / DATASET).mkdir()
        for split_index, (split, number) in enumerate(wanted.items()):
            for index in range(number):
                rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split_index, index)))
                objects, sentences = _talkative_scene(rng)
                picture, masks = render(objects, image_size, rng)
                image_id = SPLIT_STRIDE * split_index + index + 1
                file_name = f"COCO_train2014_{image_id:012d}.jpg"
                picture.save(folder / IMAGES / file_name, quality=95)
                images.append(
                    {"id": image_id, "file_name": file_name, "height": image_size, "width": image_size}
                )
                annotations += _annotations(objects, masks, image_id)
                refs += _refs(objects, sentences, image_id, file_name, split)
                if progress is not None:
                    progress(len(images), sum(wanted.values()))
        instances = {
            "info": {"description": "synthetic scenes", "synthetic": True, "seed": seed},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": shape} for i, shape in enumerate(OUTLINES, start=1)],
        }
        (folder / DATASET / "instances.json").write_text(json.dumps(instances))
        with (folder / DATASET / f"refs({SPLIT_BY}).p").open("wb") as file:
            pickle.dump(refs, file, protocol=2)  # as in the published files


def _talkative_scene(rng: np.random.Generator) -> tuple[tuple[SceneObject, ...], list[Sentence]]:
    """A scene with sentences of several kinds, about at least two objects."""
    while True:
        objects = sample_scene(rng)
        sentences = choose_sentences(objects, rng)
        kinds = {sentence.kind for sentence in sentences}
        if len(kinds) >= FEWEST_KINDS and len({sentence.target for sentence in sentences}) > 1:
            return objects, sentences


def _annotation_id(image_id: int, index: int) -> int:
    return image_id * 10 + index


def _annotations(
    objects: tuple[SceneObject, ...], masks: list[NDArray[np.bool_]], image_id: int
) -> list[dict[str, Any]]:
    return [
        {
            "id": _annotation_id(image_id, index),
            "image_id": image_id,
            "category_id": 1 + list(OUTLINES).index(thing.shape),
            "segmentation": _segmentation(thing, mask),
            "bbox": [
                round((thing.x - thing.half_width) * mask.shape[1], 2),
                round((thing.y - thing.half_height) * mask.shape[0], 2),
                round(2 * thing.half_width * mask.shape[1], 2),
                round(2 * thing.half_height * mask.shape[0], 2),
            ],
            "area": int(mask.sum()),
            "iscrowd": 0,
            "colour": thing.colour,
            "size": thing.size,
        }
        for index, (thing, mask) in enumerate(zip(objects, masks, strict=True))
    ]


def _segmentation(thing: SceneObject, mask: NDArray[np.bool_]) -> list[list[float]] | dict[str, Any]:
    """Circles as run lengths, all other shapes as polygons: the layout has both."""
    if thing.shape == "circle":
        return Rle.encode(mask).model_dump(mode="json")
    return [np.round(thing.outline() * mask.shape[0], 2).ravel().tolist()]


def _refs(
    objects: tuple[SceneObject, ...],
    sentences: list[Sentence],
    image_id: int,
    file_name: str,
    split: str,
) -> list[dict[str, Any]]:
    refs = []
    for target in sorted({sentence.target for sentence in sentences}):
        ref_id = _annotation_id(image_id, target)
        said = [
            {
                "sent_id": ref_id * 10 + number,
                "sent": sentence.text,
                "raw": sentence.text,
                "tokens": sentence.text.split(),
                "kind": sentence.kind,
            }
            for number, sentence in enumerate(s for s in sentences if s.target == target)
        ]
        refs.append(
            {
                "ref_id": ref_id,
                "ann_id": ref_id,
                "image_id": image_id,
                "category_id": 1 + list(OUTLINES).index(objects[target].shape),
                "split": split,
                "file_name": file_name,
                "sent_ids": [sentence["sent_id"] for sentence in said],
                "sentences": said,
            }
        )
    return refs
