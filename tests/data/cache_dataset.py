"""Small imported data sets, written directly from records, for the cache and stream tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from maris_fast.config import CacheSettings
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target, count
from maris_fast.rle import Rle

SIZES = ((64, 96), (96, 64), (64, 96), (80, 80), (64, 96))
"""Heights and widths of the images; three grids."""

WORDS = ("red circle", "the blue square on the left", "thing", "green one", "small round spot", "top", "it")


def tiny_settings(**changes: object) -> CacheSettings:
    """The tiny encoders at 128 pixels."""
    encoders = {
        "sam": {"arch": "vit_tiny", "weights": "random", "image_size": 128},
        "text": {"arch": "tiny", "weights": "random"},
    }
    return CacheSettings.model_validate({"encoders": encoders, "device": "cpu", **changes})


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def record(image_id: int, size: tuple[int, int], expressions: Sequence[tuple[int, str]]) -> ImageRecord:
    """A record of an image with one box per target of the expressions."""
    height, width = size
    targets = []
    for t in range(1 + max(target for target, _ in expressions)):
        mask = box(height, width, 8 + 6 * t, 8, 40 + 6 * t, width // 2 + 4 * t)
        targets.append(
            Target(
                ref_id=100 * image_id + t,
                ann_ids=(1000 * image_id + t,),
                category="thing",
                mask=Rle.encode(mask),
                area=int(mask.sum()),
            )
        )
    return ImageRecord(
        image_id=image_id,
        image=f"{image_id}.png",
        height=height,
        width=width,
        targets=tuple(targets),
        expressions=tuple(
            Expression(sent_id=10_000 * image_id + i, target=target, text=text, kind="kind")
            for i, (target, text) in enumerate(expressions)
        ),
    )


def default_records() -> list[ImageRecord]:
    """Five images with 1 to 5 expressions on 1 to 3 targets."""
    records = []
    for i, size in enumerate(SIZES):
        expressions = [(e % (1 + i % 3), WORDS[(i + e) % len(WORDS)]) for e in range(i + 1)]
        records.append(record(i + 1, size, expressions))
    return records


def write_dataset(folder: Path, splits: dict[str, list[ImageRecord]]) -> Path:
    """An imported data set with noise images."""
    images = folder / "images"
    images.mkdir(parents=True)
    for one in {one.image: one for records in splits.values() for one in records}.values():
        pixels = np.random.default_rng(one.image_id).integers(
            0, 256, (one.height, one.width, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(images / one.image)
    info = DatasetInfo(
        name="boxes",
        split_by="test",
        image_root=str(images),
        source=str(folder),
        splits={split: count(records) for split, records in splits.items()},
    )
    (folder / "dataset.json").write_text(info.model_dump_json())
    for split, records in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in records))
    return folder
