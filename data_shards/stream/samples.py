"""What is known of a batch's expressions, read from the images' JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from maris_fast.data_shards.stream.batch import Sample
from maris_fast.data_shards.stream.plan import Group
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry
from maris_fast.rle import Rle


def samples_of(group: Group, annotation: bytearray, geometry: ImageGeometry, where: str) -> Iterator[Sample]:
    """A sample for each of a group's expressions.

    Args:
        group: of one image.
        annotation: its JSON.
        geometry: of the image.
        where: it comes from, for messages.

    Raises:
        InputError: it is not what the cache's writer writes.
    """
    try:
        yield from _samples(group, json.loads(annotation), geometry)
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"{where}: its JSON is not what was written ({error}); copy the shard again, or write the "
            "cache again"
        ) from error


def _samples(group: Group, annotation: dict[str, Any], geometry: ImageGeometry) -> Iterator[Sample]:
    record = annotation["record"]
    size = geometry.height, geometry.width
    words_of = group.words_of or group.expressions
    for place, read in zip(group.expressions, words_of, strict=True):
        expression = record["expressions"][place]
        target = record["targets"][expression["target"]]
        yield Sample(
            image_id=record["image_id"],
            image=record["image"],
            ref_id=target["ref_id"],
            ann_ids=tuple(target["ann_ids"]),
            category=target["category"],
            sent_id=expression["sent_id"],
            text=record["expressions"][read]["text"],
            tokens=tuple(annotation["tokens"][read]),
            kind=expression["kind"],
            target=_rle(target["mask"], size),
            geometry=geometry,
            overlap=_rle(target["overlap"], size) if target.get("overlap") else None,
            first=all(other["target"] != expression["target"] for other in record["expressions"][:place]),
            orientation=record.get("orientation", "stored"),
        )


def _rle(written: dict[str, Any], size: tuple[int, int]) -> Rle:
    if tuple(written["size"]) != size:
        raise ValueError(f"a mask is {written['size']}, the image {size}")
    return Rle(size=size, counts=written["counts"])
